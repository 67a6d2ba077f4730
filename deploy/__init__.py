"""Running lamer: the command line, all processes on one machine, inference hosts, benchmarks and configurations."""
