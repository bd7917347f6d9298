"""Break worker and engine from inside: Python imports this at its start if its folder is on PYTHONPATH.

LTX_FAULTS names a folder of marks, files that a test makes and removes, each for one job and phase:
  {job}.{phase}.hold      the process there waits until it is gone, and writes its process id to {job}.{phase}.held
  {job}.{phase}.die       the process there kills itself
  {job}.{phase}.fail      the process there gets the error that it names, once
  {job}.storage           the fault when this job's files are stored: see faulty_storage
LTX_FAULTS_BREAK names a safeguard of the worker that is broken, to test that the audit notices.
"""

import os
import sys
import traceback

if os.environ.get("LTX_FAULTS"):
    try:
        if "ltx_worker.engine" in sys.orig_argv:
            import in_engine  # noqa: F401
        elif "ltx_worker" in sys.orig_argv:
            import in_worker  # noqa: F401
    except BaseException:  # noqa: BLE001 — Python would report it and continue
        traceback.print_exc()
        os._exit(97)
