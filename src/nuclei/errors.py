"""The one class of errors that a user can mend, and what the command line says of those of the operating system."""

import errno

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
}


class UserError(ValueError):
    """Say what a user can mend: which file or setting, what is wrong with it and how to mend it.

    Its only argument is that text, so that it reaches the parent process of a worker unchanged.
    """


def explain_os_error(error: OSError) -> str:
    """Say an error of the operating system in a line: the path, what is wrong, and a fix where one is known."""
    if error.errno is None or error.strerror is None:  # raised by a library, with a text of its own
        return str(error) or type(error).__name__
    paths = [str(path) for path in (error.filename, error.filename2) if path is not None]
    parts = [" -> ".join(paths), error.strerror, FIXES.get(error.errno, "")]
    return ": ".join(part for part in parts if part)
