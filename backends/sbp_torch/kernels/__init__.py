"""The neuron over all of time as loops derived from its formula: their source, their compilers, their threads."""
