"""A disk of a mount with its exerciser (exerciser/main.cpp), which knows what every byte of it may be."""
import errno
import os
import shutil
import signal
import subprocess

import harness
from harness import MIB, run, say, wait_for

OPERATION_FAILED = 3
# Of the kernel, for whom nobody answers any more; EIO also of `varve restore` and of mappings.
DEAD = (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
READY = b'R\n'


def program():
    """The exerciser, as meson built it."""
    return os.environ.get('VARVE_EXERCISER', '')


def why_no_exerciser():
    return None if os.access(program(), os.X_OK) else 'VARVE_EXERCISER does not name the exerciser'


def run_into(file, *words):
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE, text=True, timeout=300)
    if done.returncode != 0:
        raise AssertionError(f'{" ".join(words)}: exit code {done.returncode}: {done.stderr}')


class Exercised:
    """One disk; its model is kept in a directory beside the store, so that it outlives daemons and power cuts."""

    def __init__(self, base, name, threads=1, capacity=4 * MIB):
        self.name = name
        self.threads = threads
        self.capacity = capacity
        self.state = os.path.join(base, f'state-{name}')
        self.trace = os.path.join(base, f'trace-{name}')
        self.seed = 0
        self.worker = None
        self.acknowledged = 0
        self.snapshots = 0

    def common(self, mount, seed):
        return ['--disk', os.path.join(mount, self.name), '--state', self.state, '--seed', str(seed),
                '--threads', str(self.threads), '--capacity', str(self.capacity)]

    def work_words(self, mount, store, varve, seed):
        self.seed = seed
        return [program(), 'work', *self.common(mount, seed), '--store', store, '--varve', varve]

    def start(self, mount, store, seed):
        with open(self.trace, 'wb') as trace:
            self.worker = subprocess.Popen(self.work_words(mount, store, harness.varve, seed),
                                           stdin=subprocess.DEVNULL, stdout=trace, stderr=subprocess.PIPE, text=True)

        def ready():
            with open(self.trace, 'rb') as trace:
                return trace.read(2) == READY or self.worker.poll() is not None
        wait_for(ready, 30, 'the exerciser')

    def work_through(self, mount, store, seed, operations):
        """So many operations of each thread, all of them acknowledged."""
        with open(self.trace, 'wb') as trace:
            run_into(trace, *self.work_words(mount, store, harness.varve, seed), '--operations', str(operations))

    def is_working(self):
        return self.worker.poll() is None

    def wait_failed(self):
        """The daemon is dead: an operation of the worker fails, and with it the worker."""
        _, complaint = self.worker.communicate(timeout=60)
        last = self.last_lines().splitlines()[-1].split()
        if self.worker.returncode != OPERATION_FAILED or last[0] != 'F' or int(last[3]) not in DEAD:
            raise AssertionError(f'the exerciser of {self.name}, seed {self.seed}, ended with '
                                 f'{self.worker.returncode}, and not because nobody answered: {complaint}\n'
                                 f'{self.last_lines()}')

    def stop(self):
        if self.worker is not None and self.worker.poll() is None:
            self.worker.send_signal(signal.SIGKILL)
            self.worker.communicate()

    def lines(self):
        """How much the worker has said."""
        with open(self.trace, 'rb') as trace:
            return trace.read().count(b'\n')

    def last_lines(self):
        with open(self.trace, encoding='utf-8', errors='replace') as trace:
            return ''.join(trace.readlines()[-5:])

    def problems(self, mount, end):
        """Sentences; none when the disk is as it must be, and what it is becomes the model."""
        done = run(program(), 'check', *self.common(mount, self.seed), '--trace', self.trace, '--end', end, check=False)
        if done.returncode == 0:
            acknowledged, snapshots = map(int, done.stdout.split())
            self.acknowledged += acknowledged
            self.snapshots += snapshots
            return []
        return (done.stdout + done.stderr).splitlines() or [f'exit code {done.returncode}']

    def verify(self, mount, end):
        problems = self.problems(mount, end)
        if problems:
            kept = os.environ.get('VARVE_KEEP')
            if kept:
                shutil.copytree(os.path.dirname(self.state), kept, dirs_exist_ok=True)
            say(f'disk {self.name}, seed {self.seed}, the end of its trace:\n{self.last_lines()}')
            raise AssertionError(f'disk {self.name}, seed {self.seed}:\n' + '\n'.join(problems))
