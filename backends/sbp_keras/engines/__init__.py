"""Differentiation and compilation with the framework under Keras, which Keras does not offer; same names in each.

``VERSIONS`` names what computes and ``MODES`` how it can. ``precision(dtype)`` is a context in which that dtype is
available, ``compiled(function)`` the function as the framework compiles it. ``gradients(layer, function, arguments,
compile_it)`` runs ``function(call, *arguments)``, where ``call`` calls the layer and which returns a scalar and
auxiliary values; it returns these, and the scalar's gradients with respect to the arguments and then the layer's
trainable weights.
"""
