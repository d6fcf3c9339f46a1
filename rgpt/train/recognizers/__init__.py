"""Training of the region recognizers: `python -m rgpt.train.recognizers CONFIG.yaml`.

`config.py` what a run is, `data.py` what it sees, `recipes.py` which losses, `loop.py` the steps.
"""
