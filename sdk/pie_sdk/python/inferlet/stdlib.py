"""The part of the standard library that programs can import, and the end of all other imports.

A component has no files: only what is imported while it is built exists when it runs. Importing this module imports
it all.
"""

from __future__ import annotations

import importlib
import sys

MODULES = [
    "abc",
    "argparse",
    "array",
    "ast",
    "asyncio",
    "base64",
    "binascii",
    "bisect",
    "builtins",
    "calendar",
    "cmath",
    "cmd",
    "codecs",
    "collections",
    "collections.abc",
    "colorsys",
    "concurrent.futures",
    "configparser",
    "contextlib",
    "contextvars",
    "copy",
    "copyreg",
    "csv",
    "dataclasses",
    "datetime",
    "decimal",
    "difflib",
    "dis",
    "email",
    "email.message",
    "email.parser",
    "email.policy",
    "enum",
    "errno",
    "fnmatch",
    "fractions",
    "functools",
    "gc",
    "getopt",
    "gettext",
    "glob",
    "graphlib",
    "hashlib",
    "heapq",
    "hmac",
    "html",
    "html.entities",
    "html.parser",
    "http",
    "http.cookies",
    "importlib",
    "importlib.metadata",
    "importlib.resources",
    "inspect",
    "io",
    "ipaddress",
    "itertools",
    "json",
    "json.tool",
    "keyword",
    "linecache",
    "locale",
    "logging",
    "logging.handlers",
    "math",
    "mimetypes",
    "numbers",
    "opcode",
    "operator",
    "os",
    "os.path",
    "pathlib",
    "pickle",
    "pkgutil",
    "platform",
    "plistlib",
    "pprint",
    "queue",
    "quopri",
    "random",
    "re",
    "reprlib",
    "sched",
    "secrets",
    "select",
    "shelve",
    "shlex",
    "shutil",
    "signal",
    "stat",
    "statistics",
    "string",
    "string.templatelib",
    "stringprep",
    "struct",
    "symtable",
    "sys",
    "sysconfig",
    "tempfile",
    "textwrap",
    "threading",
    "time",
    "timeit",
    "token",
    "tokenize",
    "tomllib",
    "traceback",
    "types",
    "typing",
    "unicodedata",
    "unittest",
    "unittest.mock",
    "urllib",
    "urllib.error",
    "urllib.parse",
    "urllib.request",
    "uuid",
    "warnings",
    "weakref",
    "xml",
    "xml.dom.minidom",
    "xml.etree.ElementTree",
    "xml.sax",
    "zipfile",
    "zlib",
    "zoneinfo",
    "encodings.ascii",
    "encodings.cp1252",
    "encodings.cp437",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.punycode",
    "encodings.raw_unicode_escape",
    "encodings.unicode_escape",
    "encodings.utf_16",
    "encodings.utf_16_be",
    "encodings.utf_16_le",
    "encodings.utf_32",
    "encodings.utf_8",
    "encodings.utf_8_sig",
    "encodings.iso8859_1",
    "encodings.iso8859_15",
]

absent: list[str] = []
for _name in MODULES:
    try:
        importlib.import_module(_name)
    except ImportError:
        # Not every module exists in the wasm build of CPython; which ones is kept for the build's report.
        absent.append(_name)


class _NoFiles:
    """The last finder: says clearly why an import fails."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        raise ModuleNotFoundError(
            f"No module named {name!r} in the inferlet runtime: it has `inferlet` and most of the pure-Python standard "
            "library. Build a component of your own to bring other packages.",
            name=name,
        )


def seal() -> None:
    """From now on only what was imported can be imported."""
    keep = [
        finder for finder in sys.meta_path if getattr(finder, "__name__", "") in ("BuiltinImporter", "FrozenImporter")
    ]
    sys.meta_path[:] = [*keep, _NoFiles]
    sys.path_importer_cache.clear()
