#!/usr/bin/env python3
"""Fails on an include that points up, past the seam to the operating system, or at a library of another layer.

The tables below are the architecture (DESIGN, Layers): change them only together with it.
"""
import pathlib
import re
import sys

# Layer -> the layers it stands on; what those stand on may be included too.
STANDS_ON = {
    'core': [],
    'os': ['core'],
    'objects': ['os'],
    'chunks': ['objects'],
    'catalog': ['chunks'],  # for refs only
    'disk': ['os'],  # never chunks: a guest's write must not be able to wait for compression
    'snapshot': ['chunks', 'disk', 'catalog'],
    'store': ['snapshot'],
    'fuse': ['store'],
    'cli': ['store', 'fuse'],
}

# Headers that give access to files. Only os may use them: its doubles could not see what goes past it.
FILE_CALLS = re.compile(
    r'^(fcntl\.h|unistd\.h|dirent\.h|aio\.h|liburing\.h|cstdio|stdio\.h|fstream|filesystem|boost/filesystem.*'
    r'|sys/(stat|file|mman|vfs|statfs|statvfs|uio|xattr|sendfile|ioctl|mount)\.h|linux/(falloc|fs|openat2)\.h'
    r'|varve/os/descriptor\.h)$')
# These talk to the kernel and to people about things that are not in the store.
MAY_CALL = {'os', 'fuse', 'cli'}
# One file at a time, with the reason.
EXCEPTIONS = {
    ('src/store/control_socket.cpp', None): 'a socket, which the os layer does not know',
    ('src/store/store.cpp', 'sys/stat.h'): 'init makes the directory before there can be a Storage in it',
    ('src/store/store.cpp', 'boost/filesystem.hpp'): 'the same: its path and parent',
    ('src/store/store.cpp', 'unistd.h'): 'geteuid: whose store it is',
    ('src/chunks/rocksdb_locator.cpp', 'filesystem'): 'RocksDB keeps its files itself, in a directory we remove whole',
}

# Library -> the only layer that knows it.
LIBRARIES = {
    r'^rocksdb/': 'chunks',
    r'^zstd': 'chunks',
    r'^spdlog/': 'core',
    r'^(fuse|fuse3/)': 'fuse',
    r'^linux/fuse\.h': 'fuse',
    r'^CLI/': 'cli',
}

INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.MULTILINE)


def below(layer):
    found = set()
    for lower in STANDS_ON[layer]:
        found |= {lower} | below(lower)
    return found


def violations(path, text, siblings):
    """What is wrong with the includes of one file. `path` is relative to the root; `siblings` are the file names in
    the source folder of its layer."""
    parts = pathlib.PurePosixPath(path).parts
    public = parts[0] == 'include'
    layer = parts[2] if public else parts[1]
    if layer not in STANDS_ON:
        return [f'{path}: there is no layer "{layer}"']
    wrong = []
    for kind, header in INCLUDE.findall(text):
        target = re.match(r'^varve/([^/]+)/', header)
        if target and target[1] != layer and target[1] not in below(layer):
            wrong.append(f'{path}: {layer} must not include {header}')
        if kind == '"' and not target and (public or header not in siblings):
            wrong.append(f'{path}: "{header}" is neither a public header nor a private one of {layer}')
        excused = (path, None) in EXCEPTIONS or (path, header) in EXCEPTIONS
        if FILE_CALLS.match(header) and layer not in MAY_CALL and not excused:
            wrong.append(f'{path}: only {", ".join(sorted(MAY_CALL))} may include {header}')
        for pattern, owner in LIBRARIES.items():
            if re.match(pattern, header) and layer != owner:
                wrong.append(f'{path}: only {owner} may include {header}')
    return wrong


def source_files(root):
    for top in ('include/varve', 'src'):
        for path in sorted((root / top).rglob('*')):
            if path.suffix in ('.h', '.cpp'):
                yield path


def prove_that_it_can_fail():
    bad = [
        ('src/disk/live_disk.cpp', '#include "varve/chunks/ref.h"'),
        ('src/core/log.cpp', '#include "varve/os/storage.h"'),
        ('include/varve/objects/object_store.h', '# include <varve/store/store.h>'),
        ('src/catalog/load.cpp', '#include "varve/disk/live_disk.h"'),
        ('src/disk/journal.cpp', '#include <fcntl.h>'),
        ('src/disk/journal.cpp', '#include "varve/os/descriptor.h"'),
        ('src/snapshot/commit.cpp', '#include <rocksdb/db.h>'),
        ('src/store/store.cpp', '#include "../disk/journal.h"'),
        ('include/varve/disk/live_disk.h', '#include "journal.h"'),
        ('src/nowhere/x.cpp', ''),
    ]
    good = [
        ('src/store/store.cpp', '#include "varve/chunks/ref.h"\n#include "settings.h"\n#include <vector>'),
        ('src/os/file.cpp', '#include <fcntl.h>'),
    ]
    for path, text in bad:
        if not violations(path, text, {'settings.h'}):
            sys.exit(f'the check is broken: it allows {text} in {path}')
    for path, text in good:
        if violations(path, text, {'settings.h'}):
            sys.exit(f'the check is broken: it forbids {text} in {path}')


def main():
    prove_that_it_can_fail()
    root = pathlib.Path(sys.argv[1])
    wrong, seen, used = [], {}, set()
    for file in source_files(root):
        path = file.relative_to(root).as_posix()
        layer = path.split('/')[2 if path.startswith('include/') else 1]
        folder = root / 'src' / layer
        siblings = {p.relative_to(folder).as_posix() for p in folder.rglob('*.h')} if folder.is_dir() else set()
        text = file.read_text()
        wrong += violations(path, text, siblings)
        seen[layer] = seen.get(layer, 0) + 1
        used |= {key for key in EXCEPTIONS if key[0] == path}
    wrong += [f'layer "{layer}" has no files: the table is wrong, or the tree' for layer in STANDS_ON if layer not in seen]
    wrong += [f'exception for {path} has no file' for path, header in EXCEPTIONS.keys() - used]
    print(f'{sum(seen.values())} files in {len(seen)} layers')
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
