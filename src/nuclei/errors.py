"""The one class of errors that a user can mend, and what the command line says of those of the operating system."""

import errno
import re

# What helps against an error of the operating system, by its number.
FIXES = {
    errno.ENOSPC: "free some space on that disk, then repeat the command",
    errno.EDQUOT: "free some of your quota on that disk, then repeat the command",
    errno.EROFS: "that disk is mounted read-only: name a folder that you may write to",
    errno.EACCES: "change its permissions, or name a file or folder that is yours",
    errno.EPERM: "change its permissions, or name a file or folder that is yours",
    errno.EISDIR: "a folder has the name of a file: move it away, or name a file",
    errno.ENOTDIR: "a file has the name of a folder: move it away, or name another folder",
    errno.EEXIST: "move it away, or name another",
    errno.ENAMETOOLONG: "give the file, or a folder above it, a shorter name",
    errno.ENOENT: "check the path; if a stage makes this file, run that stage again",
    errno.ELOOP: "symbolic links lead in a circle: remove one",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n), or use fewer processes (--jobs)",
    errno.ENFILE: "too many files are open on this machine: use fewer processes (--jobs)",
    errno.EAGAIN: "too many processes or threads: raise the limit (ulimit -u), or use fewer processes (--jobs)",
    errno.ENOMEM: "use fewer processes (--jobs), or raise the limit (ulimit -v)",
}
MEMORY, THREADS = "memory", "threads"
# What errors of libraries say, whatever their class, where the system gives no more.
LACKING = {
    MEMORY: (
        *("memoryerror", "out of memory", "allocate memory", "unable to allocate", "bad_alloc", "bad allocation"),
        *("insufficient memory", "not enough memory", "failed to map segment", "outofmemory"),
    ),
    THREADS: ("start new thread", "pthread_create", "resource temporarily unavailable"),
}


CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # of terminals, ends of lines among them


class UserError(ValueError):
    """Say what a user can mend: which file or setting, what is wrong with it and how to mend it.

    Its only argument is that text, so that it reaches the parent process of a worker unchanged.
    """


def escape_controls(text: str) -> str:
    """Return a text of several lines in which control codes, as names may hold them, are escaped."""
    return "\n".join(CONTROLS.sub(lambda found: repr(found[0])[1:-1], line) for line in text.split("\n"))


def find_lack(error: Exception) -> str | None:
    """Return what the system did not give, by an error's class and text: MEMORY, THREADS or, of any other, None."""
    text = f"{type(error).__name__}: {error}".lower()
    return next((what for what, signs in LACKING.items() if any(sign in text for sign in signs)), None)


def explain_os_error(error: OSError) -> str:
    """Say an error of the operating system in a line: the path, what is wrong, and a fix where one is known."""
    if error.errno is None or error.strerror is None:  # raised by a library, with a text of its own
        return str(error) or type(error).__name__
    paths = [str(path) for path in (error.filename, error.filename2) if path is not None]
    parts = [" -> ".join(paths), error.strerror, FIXES.get(error.errno, "")]
    return ": ".join(part for part in parts if part)
