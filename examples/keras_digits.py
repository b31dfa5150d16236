"""A spiking ResNet on scikit-learn's digits with Keras `fit`: trained, saved on the way, resumed, saved for inference.

Run with KERAS_BACKEND=tensorflow, jax or torch.
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import sbp_keras
from sbp_core import Evolutionary, ResNetSpec

EPOCHS, BATCH = 5, 64
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
with tempfile.TemporaryDirectory() as folder:
    training, inference = Path(folder) / "training.keras", Path(folder) / "inference.keras"
    # the steps are those of fit unless they are given: the first fit here is only a part of the training
    schedule = Evolutionary(initial=0.25, total_steps=EPOCHS * -(-len(x_train) // BATCH))
    callbacks = [sbp_keras.ShortcutCallback(schedule), keras.callbacks.ModelCheckpoint(training)]
    options = {"batch_size": BATCH, "validation_data": (x_test, y_test), "callbacks": callbacks, "verbose": 2}
    model.fit(x_train, y_train, epochs=2, **options)

    # another process could go on from here: optimizer, schedule, step and coefficient are in the file
    model = keras.models.load_model(training)
    print("resumed after step", int(keras.ops.convert_to_numpy(model.step)), "of", schedule.total_steps)
    history = model.fit(x_train, y_train, initial_epoch=2, epochs=EPOCHS, **options)

    # the net alone, without a branch or a coefficient
    model.strip().save(inference)
    net = keras.models.load_model(inference)

for name in ("loss", "accuracy", "val_accuracy", "coefficient"):
    print(f"{name:12}", " ".join(f"{value:.4f}" for value in history.history[name]))
accuracy = (net.predict(x_test, verbose=0).argmax(axis=1) == y_test).mean()
print(f"accuracy of the main branch on {keras.backend.backend()}: {accuracy:.3f}")
