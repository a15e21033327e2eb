"""One HTML page that shows what was restored, measured and trained: the command noiseda-report.

:mod:`~noiseda_model.report.versions` finds and measures the images, :mod:`~noiseda_model.report.pictures` makes them
fit into a page, :mod:`~noiseda_model.report.runs` reads training runs, :mod:`~noiseda_model.report.command` writes the
page.
"""
