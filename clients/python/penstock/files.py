"""Files that are there whole, and durable, or not at all."""

import contextlib
import os

try:
    import fcntl
except ImportError:  # a system without flock
    fcntl = None


@contextlib.contextmanager
def locked(name):
    """Holds the lock of a file, which is made if it is not there; waits for who has it."""
    if fcntl is None:
        raise OSError("expected a system with flock")
    fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def write(name, data):
    """Writes a file for the user alone."""
    fresh = f"{name}.{os.urandom(8).hex()}.new"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    os.replace(fresh, name)
    folder = os.open(os.path.dirname(os.path.abspath(name)), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
