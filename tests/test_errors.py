"""Errors that a user can mend keep their class and text on their way, and those of the system name the path."""

import errno
import pickle

import pytest
from light_work import fail

from nuclei.errors import UserError, explain_os_error
from nuclei.runs.parallel import each_image
from nuclei.training.engine import DivergedError


@pytest.mark.parametrize("kind", [UserError, DivergedError])
def test_an_error_pickles(kind):
    error = pickle.loads(pickle.dumps(kind("a.png is damaged: fetch it anew")))
    assert type(error) is kind
    assert isinstance(error, ValueError)
    assert str(error) == "a.png is damaged: fetch it anew"


@pytest.mark.parametrize("jobs", [1, 2])
def test_errors_of_workers_keep_their_class_and_text(jobs):
    with pytest.raises(UserError, match=r"^a.png is damaged: fetch it anew$"):
        each_image(["a", "a"], fail, "work", jobs)
    with pytest.raises(OSError, match="No space left") as raised:
        each_image(["full", "full"], fail, "work", jobs)
    assert explain_os_error(raised.value).startswith("maps/full.npz: No space left on device: free some space")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EACCES, "Permission denied", "a"), "a: Permission denied: change its permissions"),
        (OSError(errno.EISDIR, "Is a directory", "a"), "a: Is a directory: a folder has the name of a file"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a"), "a: File name too long: give the file"),
        (OSError(errno.EXDEV, "Invalid link", "a", None, "b"), "a -> b: Invalid link"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (FileNotFoundError("no archive x.zip"), "no archive x.zip"),
        (OSError(), "OSError"),
    ],
)
def test_an_error_of_the_system_is_said_in_one_line_with_its_path(error, said):
    assert explain_os_error(error).startswith(said)
    assert "\n" not in explain_os_error(error)
