"""scikit-learn's estimators around a model: ``Classifier`` and ``Regressor``.

They need the package scikit-learn, which is imported at the first use of one of them.
"""

from typing import TYPE_CHECKING

__all__ = ["Classifier", "Regressor"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        import importlib

        if name in __all__:
            try:
                importlib.import_module("sklearn")
            except ImportError:
                raise ImportError(
                    f"jlayers.sklearn.{name} needs the package scikit-learn, which is not installed"
                    "\n  hint:     pip install 'jlayers[sklearn]'"
                ) from None
            return getattr(importlib.import_module(f"{__name__}.{name.lower()}"), name)
        from ..base.unknown import unknown_attribute

        raise unknown_attribute(__name__, name, __all__)

else:
    from .classifier import Classifier
    from .regressor import Regressor
