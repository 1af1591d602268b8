"""What an address is: a host and a port, and nothing around them."""

from __future__ import annotations

EXAMPLE = "127.0.0.1:50051"


def check_address(address: str) -> str:
    """Return an address to call, or raise `ValueError` if it is anything but "host:port".

    Examples
    --------
    >>> check_address("http://localhost:50051/")
    Traceback (most recent call last):
    ValueError: address is 'http://localhost:50051/': without scheme and path it is 'localhost:50051'
    """
    bare = _bare(address)
    host, _, port = bare.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 2**16):
        raise ValueError(f"address is {address!r}: it must be 'host:port' and nothing else, such as {EXAMPLE!r}")
    if bare != address:
        raise ValueError(f"address is {address!r}: without scheme and path it is {bare!r}")
    return address


def check_name(host: str) -> str:
    """Return a host to listen on, or raise `ValueError` if it is anything but a name or an IP address.

    Examples
    --------
    >>> check_name("localhost:50051")
    Traceback (most recent call last):
    ValueError: host is 'localhost:50051': it must be a name or an IP address alone, such as 'localhost'; ...
    """
    bare = _bare(host)
    name, _, port = bare.rpartition(":")
    # An IP address of version 6 has several colons, in brackets where a port follows.
    if port.isdecimal() and (name.endswith("]") or ":" not in name):
        bare = name or bare
    if bare != host:
        raise ValueError(
            f"host is {host!r}: it must be a name or an IP address alone, such as {bare!r}; the port is given by itself"
        )
    return host


def _bare(address: str) -> str:
    """Leave out what a browser's address has around host and port; gRPC would look for a host of that name."""
    return (address.partition("://")[2] or address).lstrip("/").partition("/")[0]
