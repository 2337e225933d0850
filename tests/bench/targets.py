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

    def whats(self, row):
        return [what for number, what in self.all if number == row]


class Verdicts:
    def __init__(self, figures):
        self.figures = figures
        self.lines = []

    def judge(self, row, what, asked, reached, met):
        self.lines.append((row, what, asked, reached, met))

    def ratio(self, row, what, value, other, name, least=None, most=None):
        """`value` against `other`, either of which may not have been measured."""
        bounds = [f'{word} {bound:g}' for word, bound in (('at least', least), ('at most', most)) if bound is not None]
        asked = f'{" and ".join(bounds)} of {name}'
        if value is None or not other:
            return self.judge(row, what, asked, 'not measured', None)
        reached = value / other
        met = (least is None or reached >= least) and (most is None or reached <= most)
        return self.judge(row, what, asked, f'{reached:.2f}', met)

    def bound(self, row, what, value, most, unit):
        asked = f'at most {most:g} {unit}'
        if value is None:
            return self.judge(row, what, asked, 'not measured', None)
        return self.judge(row, what, asked, f'{value:.4g} {unit}', value <= most)

    def beside(self, row, what, *peers, least=None, most=None, best=max, name=None):
        """The row's figure against its best peer, or the best of those."""
        others = self.figures.peers(row, what, *peers)
        self.ratio(row, what, self.figures.of(row, what), best(others) if others else None,
                   name or ' and '.join(peers) or 'the best peer', least, most)

    # --- rows ---

    def snapshots(self):
        of = self.figures.of
        for row in (1, 2):
            for amount in (0, 64, 1024):
                self.beside(row, f'snapshot, {amount} MiB dirty', most=0.5, best=min)
        for what, small in (('image of 4 TiB', 'image of 4 GiB'), ('10000 there already', '1 there already')):
            self.ratio(1, what, of(1, f'snapshot, {what}'), of(1, f'snapshot, {small}'), small, most=1.5)
        for depth in (1, 16):
            quiet = of(3, f'writer, {depth} deep, without snapshots: p999') or 0
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
        first = 'first overwrites, 4K QD16'
        for state in ('while a commit runs', 'while the next commit runs'):
            for name in BUSY:
                busy = f'{name}, {state}'
                self.ratio(5, busy, of(5, busy), of(5, f'{name}, quiet'), 'quiet', least=0.6)
                self.bound(5, f'{busy}: p99', of(5, f'{busy}: p99 / quiet p99'), 3, 'times quiet')
            self.ratio(6, f'{first}, {state}', of(6, f'{first}, {state}'), of(6, f'{first}, quiet'), 'quiet', least=0.5)
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
                self.ratio(11, f'{what}: {depth}', of(11, what, f'depth {depth}'), first, 'depth 1', least=0.95)
        self.bound(12, 'restore with cp', of(12, 'restore with cp'), 10, 'ms')
        self.beside(12, 'restore with dd, nothing changed', 'dd to a plain file', least=1)
        tar = 'mount -o loop,ro and tar of all files, cold'
        self.beside(13, tar, 'plain file', most=1.3)
        others = [of(13, tar, system) for system in self.figures.all.get((13, tar), {})
                  if system not in ('varve', 'plain file')]
        self.ratio(13, tar, of(13, tar), min(others, default=None), 'the best other', most=1)

    def cost(self):
        of = self.figures.of
        made = of(14, '100 snapshots of 1 % each: written and committed')
        self.bound(14, 'delete one', of(14, 'delete one'), 10, 'ms')
        self.ratio(14, 'collect all', of(14, 'collect all'), made, 'making them', most=1)
        for what in self.figures.whats(15):
            if what.endswith(': mount'):
                self.bound(15, what, of(15, what), 2, 's')
            else:
                self.bound(15, what, of(15, what), 300, 'MB')


def print_verdicts(figures):
    """Of the rows that were measured at all."""
    rows = {figure['row'] for figure in figures}
    verdicts = Verdicts(Figures(figures))
    for part in (verdicts.snapshots, verdicts.live, verdicts.committing, verdicts.reading, verdicts.cost):
        part()
    print('\nasked and reached')
    for row, what, asked, reached, met in sorted(verdicts.lines, key=lambda line: line[0]):
        if row in rows:
            print(f'  {row:2}  {what:66} {asked:42} {reached:>18}   {"" if met is None else "met" if met else "MISSED"}')


if __name__ == '__main__':
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding='utf-8') as file:
        print_verdicts(json.load(file))
