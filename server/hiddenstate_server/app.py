"""The command's own work: serves in this process, or keeps several that do."""

import os

from hiddenstate_server.config import Settings
from hiddenstate_server.environment import warn_of_strays
from hiddenstate_server.logs import configure_logs
from hiddenstate_server.signals import end_until_serving


def run(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then drains. A second signal ends at once, as does one before anything is served.

    Raises:
        BundleError: a model is damaged.
        ConfigError: a setting does not fit this machine or these models.
        WorkersError: processes that should serve keep ending.
    """
    configure_logs(settings.log_format, settings.log_level)
    end_until_serving()
    warn_of_strays(os.environ)
    # Imported late: gRPC and ONNX Runtime take most of a second, and a process that only keeps others needs neither.
    if settings.workers == 1:
        from hiddenstate_server.process import serve

        serve(settings)
    else:
        from hiddenstate_server.workers.supervisor import supervise

        supervise(settings)
