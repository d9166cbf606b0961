"""Generated scenes with known truth: pictures, masks and words, written in the layouts of real data sets."""

from setok.data.scenes.generate import FAMILIES, generate_scene
from setok.data.scenes.layouts import LAYOUTS, write_scenes
from setok.data.scenes.objects import Scene, SceneObject

__all__ = ["FAMILIES", "LAYOUTS", "Scene", "SceneObject", "generate_scene", "write_scenes"]
