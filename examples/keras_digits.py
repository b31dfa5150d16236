"""A spiking ResNet on scikit-learn's digits with Keras `fit`; run with KERAS_BACKEND=tensorflow, jax or torch."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import sbp_keras
from sbp_core import Evolutionary, ResNetSpec

keras.utils.set_random_seed(0)
digits = load_digits()
images = (digits.images[..., None] / 16.0).astype("float32")
x_train, x_test, y_train, y_test = train_test_split(images, digits.target, test_size=0.25, random_state=0)

spec = ResNetSpec(depths=(1, 1, 1), widths=(8, 16, 32), in_channels=1, time_steps=4)
net = sbp_keras.resnet(spec, input_shape=(8, 8, 1))
model = sbp_keras.ShortcutModel(net, taps=spec.default_taps, num_classes=10)
model.compile(
    optimizer=keras.optimizers.AdamW(0.005),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
history = model.fit(
    x_train,
    y_train,
    batch_size=64,
    epochs=5,
    validation_data=(x_test, y_test),
    callbacks=[sbp_keras.ShortcutCallback(Evolutionary(initial=0.25))],
    verbose=2,
)
for name in ("loss", "accuracy", "val_accuracy", "coefficient"):
    print(f"{name:12}", " ".join(f"{value:.4f}" for value in history.history[name]))

accuracy = (model.main.predict(x_test, verbose=0).argmax(axis=1) == y_test).mean()
print(f"accuracy of the main branch on {keras.backend.backend()}: {accuracy:.3f}")
