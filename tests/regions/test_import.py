"""Floor 0 is light."""

from __future__ import annotations

import subprocess
import sys


def test_importing_regions_does_not_import_torch():
    code = "import rgpt.regions, sys; print(sorted({'torch', 'transformers', 'gradio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_rgpt_imports_nothing_heavy():
    code = "import rgpt, sys; print(rgpt.__version__, 'numpy' in sys.modules, 'PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1:] == ["False", "False"]
