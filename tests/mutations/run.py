#!/usr/bin/env python3
"""Breaks the code on purpose, one mutation at a time (mutations.py), and demands that the named test fails.

    tests/mutations/run.py             all; each is built in a copy of the tree, some ten minutes in all
    tests/mutations/run.py --rule 7    those of one rule
    tests/mutations/run.py --check     only that every mutation still fits the code, and rule by rule none is missing

Exit code 1 when a mutation was not noticed, or does not fit any more.
"""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from mutations import MUTATIONS

TREE = pathlib.Path(__file__).resolve().parents[2]
RULES = range(1, 14)
TEST_SECONDS = 300


def misfits():
    wrong = [f'rule {rule}: no mutation' for rule in RULES if all(m.rule != rule for m in MUTATIONS)]
    for m in MUTATIONS:
        count = (TREE / m.file).read_text(encoding='utf-8').count(m.old)
        if count != 1:
            wrong.append(f'rule {m.rule}, {m.breaks}: its text is {count} times in {m.file}, not once')
        room, name = m.test.split('/')
        sources = '\n'.join(p.read_text(encoding='utf-8') for p in (TREE / 'tests' / room).glob('*.*'))
        for case in m.cases.split(':'):
            if case.split('.')[-1].strip('*') not in sources:
                wrong.append(f'rule {m.rule}, {m.breaks}: no test is called {case}')
    return wrong


class Copy:
    """A tree to break: sources, and a build directory that is reused from one mutation to the next."""

    def __init__(self, where):
        self.tree = pathlib.Path(where) / 'tree'
        self.build = pathlib.Path(where) / 'build'
        self.tree.mkdir()
        for name in subprocess.run(['git', 'ls-files', '-z'], cwd=TREE, check=True, capture_output=True,
                                   text=True).stdout.split('\0'):
            if name and (TREE / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(TREE / name, self.tree / name)
        environment = dict(os.environ, CXX=os.environ.get('CXX', 'ccache g++' if shutil.which('ccache') else 'g++'))
        self.run('meson', 'setup', self.build, self.tree, '-Ddebug=false', '-Doptimization=1', '-Dman=disabled',
                 '-Dwerror=false', env=environment)

    @staticmethod
    def run(*command, **options):
        done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, errors='replace', check=False, **options)
        if done.returncode != 0:
            sys.exit(f'{" ".join(map(str, command))}: exit code {done.returncode}\n{done.stdout[-4000:]}')

    def build_target(self, test):
        self.run('ninja', '-C', self.build, 'src/cli/varve' if test.endswith('.py') else f'tests/{test}')

    def passes(self, m):
        """Whether the test of this mutation passes with the code as it is now. One that hangs does not."""
        self.build_target(m.test)
        if m.test.endswith('.py'):
            command = [sys.executable, self.tree / 'tests' / m.test, self.build / 'src/cli/varve', *m.cases.split()]
        else:
            command = [self.build / 'tests' / m.test, f'--gtest_filter={m.cases}']
        with subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              start_new_session=True) as test:
            try:
                return test.wait(TEST_SECONDS) == 0
            except subprocess.TimeoutExpired:
                os.killpg(test.pid, 9)
                return False

    def survives(self, m):
        """Whether the test does not notice."""
        path = self.tree / m.file
        sound = path.read_text(encoding='utf-8')
        path.write_text(sound.replace(m.old, m.new), encoding='utf-8')
        try:
            return self.passes(m)
        finally:
            path.write_text(sound, encoding='utf-8')


def main():
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument('--check', action='store_true')
    words.add_argument('--rule', type=int, action='append')
    asked = words.parse_args()
    wrong = misfits()
    print(*wrong, sep='\n', end='\n' if wrong else '')
    if asked.check or wrong:
        print(f'{len(MUTATIONS)} mutations, {len(wrong)} misfits')
        return 1 if wrong else 0
    chosen = [m for m in MUTATIONS if not asked.rule or m.rule in asked.rule]
    survivors = 0
    with tempfile.TemporaryDirectory(prefix='varve-mutations-') as where:
        copy = Copy(where)
        sound = {}
        for m in chosen:
            key = (m.test, m.cases)
            if key not in sound:
                sound[key] = copy.passes(m)
        for m in chosen:
            if not sound[m.test, m.cases]:
                outcome = 'ITS TEST FAILS WITHOUT IT'
            else:
                outcome = 'NOT NOTICED' if copy.survives(m) else 'noticed'
            survivors += outcome != 'noticed'
            print(f'rule {m.rule:2}  {m.breaks}: {outcome}', flush=True)
    print(f'{len(chosen)} mutations, {len(chosen) - survivors} noticed')
    return 1 if survivors else 0


if __name__ == '__main__':
    sys.exit(main())
