"""Where an engine's time, memory and energy go; `measure.profile_engines` is the way in."""
