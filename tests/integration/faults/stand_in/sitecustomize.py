"""Python imports this at its start where its folder is on PYTHONPATH: the tests' hands inside worker and engine.

LTX_FAULTS names a folder of marks, files that a test makes and removes, each for one job and phase:
  {job}.{phase}.hold      whoever gets there waits until it is gone, and tells by {job}.{phase}.held, its process id
  {job}.{phase}.die       whoever gets there kills itself
  {job}.{phase}.fail      whoever gets there meets the error that it names, once
  {job}.storage           what storing this job's files meets: see faulty_storage
LTX_FAULTS_BREAK names what is broken in the worker's own safeguards, to see that the audit notices.
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
    except BaseException:  # noqa: BLE001 — Python would report it and go on without
        traceback.print_exc()
        os._exit(97)
