// One binary, so one link.
