"""From whatever a user calls a video to the pixels of a clip. Imports config, runtime and errors; knows no model."""
