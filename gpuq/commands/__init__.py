"""What each command of the command line does; gpuq/cli.py only parses arguments and calls these."""
