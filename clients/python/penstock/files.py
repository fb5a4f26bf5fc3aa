"""Files that are there whole, and durable, or not at all."""

import os


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
