"""The command line: the main job and `avm run`; thin."""
