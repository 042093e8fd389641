"""The wire between Pie's processes: message types, codec, links, sockets and the error tree."""

PROTOCOL = b"PIE1"
"""Frame marker and major version: peers that do not send it are refused."""

PROTOCOL_VERSION = (1, 0)
"""(major, minor). Same major: compatible; a higher minor may add verbs and fields, never change one."""
