"""The named recipes: each published number is one name."""

from hodor.train import Data, Recipe

LITE = Recipe(model="hodor-lite", data=Data(), precision="bfloat16")
"""The weights in the box: DAVIS 2016 train less the five held-out sequences, and stills from COCO and CCP, from ImageNet."""

RECIPES = {"lite": LITE}
