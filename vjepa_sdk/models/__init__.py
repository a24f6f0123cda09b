"""The networks and the objective. Imports config, runtime and errors; knows no file and no cluster."""
