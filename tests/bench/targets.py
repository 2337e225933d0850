#!/usr/bin/env python3
"""What varve must reach beside its peers, and whether it did, from the figures of one run.

    tests/bench/targets.py SPEED.json        what speed.py --json wrote; speed.py prints the same at its end
"""
import json
import statistics
import sys

LIVE_READS = ('4K randread QD1', '4K randread QD16')
SINGLE_WRITES = ('4K randwrite QD1', '4K write + fdatasync', '64K randwrite QD4')
BUSY = ('4K randread QD16', '4K randwrite QD16', '4K write + fdatasync')


class Figures:
    def __init__(self, figures):
        self.all = {(figure['row'], figure['what']): figure['systems'] for figure in figures}

    def of(self, row, what, system='varve'):
        """The median; None where it was not measured."""
        values = self.all.get((row, what), {}).get(system)
        return statistics.median(values) if values else None

    def peers(self, row, what, *only):
        systems = self.all.get((row, what), {})
        return [statistics.median(values) for system, values in systems.items()
                if system != 'varve' and (not only or system in only)]

    def whats(self, row, begin):
        return [what for number, what in self.all if number == row and what.startswith(begin)]


class Verdicts:
    def __init__(self, figures):
        self.figures = figures
        self.lines = []

    def judge(self, row, what, asked, reached, met):
        self.lines.append((row, what, asked, reached, met))

    def ratio(self, row, what, value, other, name, least=None, most=None):
        """`value` against `other`, either of which may not have been measured."""
        if not value or not other:
            return
        bounds = [f'{word} {bound:g}' for word, bound in (('at least', least), ('at most', most)) if bound is not None]
        reached = value / other
        met = (least is None or reached >= least) and (most is None or reached <= most)
        self.judge(row, what, f'{" and ".join(bounds)} of {name}', f'{reached:.2f}', met)

    def bound(self, row, what, value, most, unit):
        if value is not None:
            self.judge(row, what, f'at most {most:g} {unit}', f'{value:.4g} {unit}', value <= most)

    def beside(self, row, what, *peers, least=None, most=None, best=max, name=None):
        """The row's figure against its best peer, or the best of those."""
        others = self.figures.peers(row, what, *peers)
        if others:
            self.ratio(row, what, self.figures.of(row, what), best(others), name or ' and '.join(peers) or 'the best peer',
                       least, most)

    # --- rows ---

    def snapshots(self):
        of = self.figures.of
        for row in (1, 2):
            for what in self.figures.whats(row, 'snapshot, '):
                self.beside(row, what, most=0.5, best=min)
        for what, small in (('image of 4 TiB', 'image of 4 GiB'), ('10000 there already', '1 there already')):
            self.ratio(1, what, of(1, f'snapshot, {what}'), of(1, f'snapshot, {small}'), small, most=1.5)
        for depth in (1, 16):
            quiet = of(3, f'writer, {depth} deep, without snapshots: p999')
            if quiet:
                self.bound(3, f'writer, {depth} deep, with a snapshot every 50 ms: longest',
                           of(3, f'writer, {depth} deep, with a snapshot every 50 ms: longest'), max(5000, 3 * quiet), 'us')

    def live(self):
        for what in LIVE_READS + SINGLE_WRITES:
            self.beside(4, what, 'passthrough direct', least=0.9)
        self.beside(4, '4K randwrite QD16', 'passthrough direct', least=0.8)
        self.bound(4, '4K randwrite QD16, p99', self.figures.of(4, '4K randwrite QD16, p99'), 2000, 'us')
        self.beside(4, '1M sequential write + fsync', 'q-s-d raw', 'q-s-d raw direct', 'q-s-d qcow2', least=1,
                    name='the best q-s-d')
        for what in ('1M sequential read, cold', '1M sequential read, warm'):
            self.beside(4, what, 'passthrough', least=0.95)

    def committing(self):
        of = self.figures.of
        for name in BUSY:
            self.ratio(5, name, of(5, f'{name}, while a commit runs'), of(5, f'{name}, quiet'), 'quiet', least=0.6)
            p99 = of(5, f'{name}, while a commit runs: p99 / quiet p99')
            self.bound(5, f'{name}: p99', p99, 3, 'times quiet')
        name = 'first overwrites, 4K QD16'
        self.ratio(6, name, of(6, f'{name}, while a commit runs'), of(6, f'{name}, quiet'), 'quiet', least=0.5)
        for level in (1, 3):
            self.beside(7, f'commit at level {level}, new data', 'zstd -b', least=0.8)

    def reading(self):
        of = self.figures.of
        self.beside(8, 'snapshot, sequential, cold', 'squashfuse 128K', least=1.4)
        self.beside(8, 'snapshot, sequential, cold', 'plain file', least=1)
        self.beside(9, 'snapshot, sequential, warm', 'squashfuse 128K', least=1)
        for threads in (1, 4):
            self.beside(10, f'snapshot, 4K random, cold, {threads} threads', 'q-s-d qcow2 zstd', least=1.25)
        for what in ('sequential, cold, by depth', '4K random, cold, by depth'):
            first = of(11, what, 'depth 1')
            for depth in (10, 100, 300, 1000):
                self.ratio(11, f'{what}: {depth}', of(11, what, f'depth {depth}'), first, 'depth 1', 0.95, 1.05)
        self.bound(12, 'restore with cp', of(12, 'restore with cp'), 10, 'ms')
        self.beside(12, 'restore with dd, nothing changed', 'dd to a plain file', least=1)
        tar = 'mount -o loop,ro and tar of all files, cold'
        self.beside(13, tar, 'plain file', most=1.3)
        others = [system for system in self.figures.all.get((13, tar), {}) if system not in ('varve', 'plain file')]
        if others:
            self.beside(13, tar, *others, most=1, best=min, name='the best other')

    def cost(self):
        of = self.figures.of
        made = of(14, '100 snapshots of 1 % each: written and committed')
        self.bound(14, 'delete one', of(14, 'delete one'), 10, 'ms')
        self.ratio(14, 'collect all', of(14, 'collect all'), made, 'making them', most=1)
        for what in self.figures.whats(15, ''):
            if what.endswith(': mount'):
                self.bound(15, what, of(15, what), 2, 's')
            else:
                self.bound(15, what, of(15, what), 300, 'MB')


def print_verdicts(figures):
    verdicts = Verdicts(Figures(figures))
    for part in (verdicts.snapshots, verdicts.live, verdicts.committing, verdicts.reading, verdicts.cost):
        part()
    if not verdicts.lines:
        return
    print('\nasked and reached')
    for row, what, asked, reached, met in sorted(verdicts.lines, key=lambda line: line[0]):
        print(f'  {row:2}  {what:58} {asked:42} {reached:>18}   {"met" if met else "MISSED"}')


if __name__ == '__main__':
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding='utf-8') as file:
        print_verdicts(json.load(file))
