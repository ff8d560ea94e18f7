"""
A page that shows what runs learned: one report.html, opened from disk, with nothing in it that asks the network.

    python -m report runs/NAME                   # writes runs/NAME/report.html; train.py does the same at its end
    python -m report runs/A runs/B --out ab.html # compared; runs that differ only in the seed make one line with a band
    python -m report runs/NAME --png DIR         # the plots as pictures too

Everything comes from the run folders: metrics.jsonl (the source of every curve), samples.jsonl, config.json,
heldout.md, machine.json and preset.json. Model text is data: programs are parsed and run in the executor's children
(measure.py), texts are escaped here, or carried compressed and shown as text nodes by the page's script (report.html,
the template), which a content security policy keeps from loading or running anything else.

Order of reading: read.py (a run folder -> History), findings.py (what its samples show, with measure.py for programs),
curves.py (the plots), gallery.py (every task with its answers), headline.py (the first screen: verdict, warnings, two
tasks), overview.py (tables), page.py (all of it as a page). README.md beside them has every field of a run's files.
"""
