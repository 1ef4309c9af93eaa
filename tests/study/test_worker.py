"""What a worker sends: progress in order, lines of one run together, and errors that the parent can raise again."""

import contextlib
import pickle
from multiprocessing import Pipe

import jax
import pytest

from mae_jax.runtime.errors import Stopped, StorageError, UserError
from mae_jax.study import worker


@pytest.fixture
def ends():
    """The connections of a worker and of its parent."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(end) for end in Pipe()]


def sent(parent):
    """All messages that have arrived."""
    messages = []
    while parent.poll():
        messages.append(parent.recv())
    return messages


def test_lines_before_the_first_step_are_sent_together(ends):
    parent, child = ends
    sender = worker.Sender(child)
    sender.hold()
    sender.say("classes: 5")
    sender.say("images: 60")
    sender.describe("finetune", ["finetune in x", "  warning: few"])
    sender.start("finetune", 4, 0, 16)
    sender.say("stopped early")
    assert sent(parent) == [
        ("say", "classes: 5\nimages: 60"),
        ("describe", "finetune", ["finetune in x", "  warning: few"]),
        ("start", "finetune", 4, 0, 16),
        ("say", "stopped early"),
    ]


def test_the_first_and_the_last_update_are_always_sent(ends):
    parent, child = ends
    sender = worker.Sender(child)
    sender.start("finetune", 500, 7, 16)
    for step in range(8, 501):
        sender.update(step, "loss 1")
    steps = [message[1] for message in sent(parent) if message[0] == "update"]
    assert steps[0] == 8 and steps[-1] == 500 and len(steps) < 100


def test_a_parent_that_has_gone_does_not_end_the_run(ends):
    parent, child = ends
    parent.close()
    with pytest.raises(BrokenPipeError):
        child.send("saved")
    worker.Sender(child).say("saved")


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as same:
        return same


def test_errors_keep_type_text_and_the_stack_trace_of_a_bug():
    refused = pickle.loads(pickle.dumps(worker.sendable(raised(UserError("data.dir=x is not a folder")))))
    assert type(refused) is UserError and str(refused) == "data.dir=x is not a folder"
    full = pickle.loads(pickle.dumps(worker.sendable(raised(StorageError("disk full")))))
    assert type(full) is StorageError
    bug = pickle.loads(pickle.dumps(worker.sendable(raised(KeyError("lowered")))))
    assert type(bug) is KeyError and "in raised" in bug.__notes__[0]
    missing = pickle.loads(pickle.dumps(worker.sendable(raised(FileNotFoundError(2, "No such file", "a.png")))))
    assert (missing.errno, missing.filename) == (2, "a.png")


def test_an_error_that_cannot_be_sent_keeps_its_text():
    class Local(Exception):
        pass

    plain = worker.sendable(raised(Local("odd")))
    assert type(plain) is RuntimeError and str(plain) == "odd"
    memory = worker.sendable(raised(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")))
    assert isinstance(pickle.loads(pickle.dumps(memory)), RuntimeError)
    assert str(memory).startswith("RESOURCE_EXHAUSTED")  # `runtime.command` looks for this


def test_a_stop_says_what_is_kept():
    stop = Stopped("stopped by SIGTERM; step 3 of 9 is saved; rerun the same command to resume")
    stop.kept = "step 3 of 9 is saved"
    again = pickle.loads(pickle.dumps(worker.sendable(raised(stop))))
    assert type(again) is Stopped and again.kept == "step 3 of 9 is saved"


@pytest.mark.parametrize("name", ["open", "plan", "time", "run"])
def test_every_message_of_the_parent_has_a_method(name):
    assert callable(getattr(worker.Server, name))
