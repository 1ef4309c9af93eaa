import jax
import pytest

from mae_jax.runtime.errors import UserError
from mae_jax.step import sharding


def test_a_mesh_has_all_devices_or_is_refused():
    devices = jax.device_count()
    assert sharding.make_mesh(devices).shape == {"data": 1, "fsdp": devices}
    with pytest.raises(UserError, match=rf"sharding\.fsdp={devices + 1} does not divide the {devices} devices; use"):
        sharding.make_mesh(devices + 1)
