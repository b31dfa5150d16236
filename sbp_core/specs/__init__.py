"""The specs: neurons, surrogates, schedules, shortcuts and networks as frozen, validated descriptions."""
