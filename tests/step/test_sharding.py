import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.runtime.errors import UserError
from mae_jax.step import sharding


def test_a_mesh_has_all_devices_or_is_refused():
    devices = jax.device_count()
    assert sharding.make_mesh(devices).shape == {"data": 1, "fsdp": devices}
    with pytest.raises(UserError, match=rf"sharding\.fsdp={devices + 1} does not divide the {devices} devices; use"):
        sharding.make_mesh(devices + 1)


def test_arrays_of_the_host_stay_there():
    """As those of the best epoch, which are read from a file."""
    array = np.arange(3.0)
    assert sharding.to_host(array) is array
    assert sharding.to_host(jnp.arange(3)).tolist() == [0, 1, 2]
