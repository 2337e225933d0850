#!/usr/bin/env python3
"""Draws what speed.py and space.py measured, with gnuplot: SVG files in a directory.

    tests/bench/plot.py DIRECTORY [--speed SPEED.json] [--space SPACE.json]

    latency.svg   how long a snapshot takes, by what was written since the last one
    depth.svg     how fast a snapshot reads, by the number of snapshots before it
    space.svg     bytes stored, snapshot by snapshot
"""
import argparse
import json
import os
import re
import statistics
import subprocess

HEAD = '''set terminal svg size 640,400 font "sans,12" background "white"
set output "{path}"
set title "{title}"
set xlabel "{x}"
set ylabel "{y}"
set key outside right
set grid
'''


def draw(path, title, x, y, lines, *settings):
    """`lines`: name to [(x, y)]."""
    blocks, plots = [], []
    for number, (name, points) in enumerate(sorted(lines.items(), key=lambda item: item[0] != 'varve')):
        blocks.append(f'$d{number} << END\n' + '\n'.join(f'{a} {b}' for a, b in sorted(points)) + '\nEND\n')
        plots.append(f'$d{number} using 1:2 with linespoints lw {3 if name.startswith("varve") else 1} title "{name}"')
    script = HEAD.format(path=path, title=title, x=x, y=y) + '\n'.join(settings) + '\n' + ''.join(blocks)
    subprocess.run(['gnuplot'], input=script + 'plot ' + ', '.join(plots) + '\n', text=True, check=True)
    print(path)


def by_number(figures, row, pattern):
    """System to [(number found in what was measured, median)]."""
    lines = {}
    for figure in figures:
        found = re.search(pattern, figure['what'])
        if figure['row'] == row and found:
            for system, values in figure['systems'].items():
                lines.setdefault(system, []).append((int(found[1]), statistics.median(values)))
    return lines


def by_depth(figures, what):
    for figure in figures:
        if figure['row'] == 11 and figure['what'].startswith(what):
            yield from ((int(system.split()[1]), statistics.median(values)) for system, values in figure['systems'].items())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('directory')
    parser.add_argument('--speed')
    parser.add_argument('--space')
    arguments = parser.parse_args()
    os.makedirs(arguments.directory, exist_ok=True)

    def at(name):
        return os.path.join(arguments.directory, name)
    if arguments.speed:
        with open(arguments.speed, encoding='utf-8') as file:
            figures = json.load(file)
        latency = by_number(figures, 1, r'^snapshot, (\d+) MiB dirty')
        if latency:
            draw(at('latency.svg'), 'Taking a snapshot', 'MiB written and flushed since the last one', 'ms', latency,
                 'set logscale y', 'set yrange [0.5:*]')
        # As a part of the speed of the first: two figures of unlike size.
        depth = {what: list(by_depth(figures, what)) for what in ('sequential', '4K random')}
        depth = {what: [(x, y / min(points)[1]) for x, y in points] for what, points in depth.items() if points}
        if depth:
            draw(at('depth.svg'), 'Reading a snapshot, cold', 'snapshots before it', 'speed, the first is 1', depth,
                 'set logscale x', 'set yrange [0:1.5]')
    if arguments.space:
        with open(arguments.space, encoding='utf-8') as file:
            stored = json.load(file)['stored']
        draw(at('space.svg'), 'Stored: 1 % overwritten in 4 KiB pieces before each', 'snapshots after the first', 'MB',
             {system: [(step, value / 1e6) for step, value in enumerate(grains['4'])] for system, grains in stored.items()},
             'set yrange [0:*]')


if __name__ == '__main__':
    main()
