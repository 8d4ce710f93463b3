"""Answers to losses, metrics, optimisers, callbacks and estimators of others, and to rare layers.

How to read this file: it is data alone, rows of the table ``NAMES`` in ``answers.py``. Names that
differ from those of optax, ``jl.losses`` and ``jl.metrics`` in case and underscores alone need no
row: ``AdamW`` is found as ``optax.adamw``, ``R2Score`` as ``jl.metrics.r2_score``.
"""

from __future__ import annotations

_MEAN = "jl.losses.weighted_mean"
_WINDOWS = "the rank comes from the input"

LOSSES = {
    "jl.losses.cross_entropy": (
        "CrossEntropyLoss SparseCategoricalCrossentropy CategoricalCrossentropy "
        "CategoricalGeneralizedCrossEntropy"
    ),
    "jl.losses.cross_entropy of logits: no log_softmax before it": "NLLLoss NLLLoss2d nll_loss",
    "jl.losses.binary_cross_entropy": (
        "BCEWithLogitsLoss BinaryCrossentropy binary_cross_entropy_with_logits "
        "MultiLabelSoftMarginLoss multilabel_soft_margin_loss"
    ),
    "jl.losses.binary_cross_entropy of logits: no sigmoid before it": "BCELoss",
    "jl.losses.focal": "CategoricalFocalCrossentropy FocalLoss",
    "optax.losses.sigmoid_focal_loss": "BinaryFocalCrossentropy",
    "jl.losses.ctc": "CTCLoss",
    "jl.losses.dice": "DiceLoss Tversky",
    "jl.losses.info_nce": "NTXentLoss InfoNCELoss",
    "jl.losses.gaussian_nll": "GaussianNLLLoss gaussian_nll_loss",
    "jl.losses.poisson_nll": "PoissonNLLLoss poisson_nll_loss Poisson",
    f"{_MEAN}(optax.squared_error(y, target))": "MSELoss mse_loss MeanSquaredError mse",
    f"{_MEAN}(jnp.abs(y - target))": "L1Loss l1_loss MeanAbsoluteError mae",
    f"{_MEAN}(jnp.abs((y - target) / target))": "MeanAbsolutePercentageError mape",
    f"{_MEAN}(optax.squared_error(jnp.log1p(y), jnp.log1p(target)))": (
        "MeanSquaredLogarithmicError msle"
    ),
    "optax.huber_loss(y, target, beta) / beta": "SmoothL1Loss smooth_l1_loss",
    "optax.losses.huber_loss": "Huber",
    "optax.losses.log_cosh": "LogCosh LogCoshError",
    "optax.losses.kl_divergence": "KLDivLoss kl_div KLDivergence",
    "optax.losses.cosine_similarity, of each example": "CosineSimilarity cosine_similarity",
    "optax.losses.cosine_distance": "CosineEmbeddingLoss cosine_embedding_loss",
    "optax.losses.triplet_margin_loss": (
        "TripletMarginLoss triplet_margin_loss "
        "TripletMarginWithDistanceLoss triplet_margin_with_distance_loss Circle"
    ),
    "optax.losses.hinge_loss": "Hinge HingeEmbeddingLoss hinge_embedding_loss",
    "optax.losses.hinge_loss(y, target) ** 2": "SquaredHinge",
    "optax.losses.multiclass_hinge_loss": (
        "MultiMarginLoss multi_margin_loss CategoricalHinge MultiLabelMarginLoss "
        "multilabel_margin_loss"
    ),
    "jax.nn.softplus(-y * target)": "SoftMarginLoss soft_margin_loss",
    "jax.nn.relu(margin - target * (first - second))": "MarginRankingLoss margin_ranking_loss",
    "jnp.linalg.norm(a - b, axis=-1)": "PairwiseDistance pairwise_distance pdist",
}

METRICS = {
    "jl.metrics.accuracy": "CategoricalAccuracy SparseCategoricalAccuracy",
    "jl.metrics.accuracy(logits, labels, top=k)": (
        "TopKCategoricalAccuracy SparseTopKCategoricalAccuracy"
    ),
    "jl.metrics.f1": "F1Score FBetaScore",
    "jl.metrics.iou": "MeanIoU BinaryIoU OneHotIoU OneHotMeanIoU",
    "jl.metrics.confusion_matrix": (
        "TruePositives TrueNegatives FalsePositives FalseNegatives ConfusionMatrix"
    ),
    "jl.metrics.auc": (
        "PrecisionAtRecall RecallAtPrecision SensitivityAtSpecificity SpecificityAtSensitivity "
        "AUROC"
    ),
    "jl.metrics.mean": "MeanMetricWrapper",
    "jl.metrics.mean(optax.squared_error(y, target)).then(jnp.sqrt)": "RootMeanSquaredError",
    "jl.metrics.r2_score": "PearsonCorrelation ConcordanceCorrelation",
    "jl.metrics.Metric, which adds up: first + second": "MultiMetric Sum",
}

OPTIMIZERS = {
    "optax": "optimizers optim",
    "optax.adam(1e-3)": "Adam SparseAdam NAdam",
    "optax.sgd(0.1)": "SGD ASGD",
    "optax; jl.training.train_step(model, loss, tx)": "Optimizer ModelAndOptimizer",
    "optax.contrib.muon(1e-3)": "Muon",
    "optax.contrib.schedule_free_adamw(1e-3)": "ScheduleFreeAdamW",
    "optax.transforms.partition(optimizers, labels)": "MultiOptimizer",
    "jl.training.train_step(..., loss_scale=jl.training.LossScale())": (
        "LossScaleOptimizer GradScaler"
    ),
    "optax.adagrad(1e-3)": "Ftrl",
    "optax.schedules, as the learning rate of the optimiser": "LearningRateScheduler lr_scheduler",
}

CALLBACKS = {
    "jl.training.CheckpointManager(folder), for fit(..., checkpoints=)": (
        "ModelCheckpoint BackupAndRestore"
    ),
    "jl.training.Hook, for fit(..., hooks=)": "Callback CallbackList LambdaCallback",
    "jl.records.json_lines(path)": "CSVLogger RemoteMonitor",
    "jl.records.tensorboard(folder)": "TensorBoard SummaryWriter",
    "jl.records.Progress, or fit(..., progress=True)": "ProgbarLogger tqdm",
    "the records of what jl.training.fit returns": "History",
    "optax.contrib.reduce_on_plateau()": "ReduceLROnPlateau",
    "jl.training.train_step(..., ema=0.999)": (
        "SwapEMAWeights ExponentialMovingAverage EMAParamsTree"
    ),
    "jl.training.fit stops by itself, unless non_finite= says otherwise": "TerminateOnNaN",
}

ESTIMATORS = {
    "jl.sklearn.Classifier(model)": (
        "KerasClassifier SKLearnClassifier NeuralNetClassifier NeuralNetBinaryClassifier"
    ),
    "jl.sklearn.Regressor(model)": "KerasRegressor SKLearnRegressor NeuralNetRegressor",
    "sklearn.model_selection, around jl.sklearn.Classifier(model)": (
        "GridSearchCV RandomizedSearchCV cross_val_score cross_validate"
    ),
}

# Layers that few ask for, and the machinery of classes.
RARE = {
    f"jl.Conv: {_WINDOWS}": "Convolution conv_tbc",
    f"jl.ConvTranspose: {_WINDOWS}": "ConvolutionTranspose",
    "jl.serial(jl.Conv(channels, kernel_size, groups=channels, bias=False), "
    "jl.Conv(features, 1))": "SeparableConvolution SeparableDepthwiseConv",
    f"jl.Conv(features, kernel_size): {_WINDOWS}": "LazyConv",
    "jl.LocalResponseNorm()": "CrossMapLRN",
    "jl.UnitNorm()": "normalize",
    "jl.MaxPool(window_shape, indices=True)": (
        "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices"
    ),
    "jl.AdaptiveMaxPool(sizes, indices=True)": (
        "adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices "
        "adaptive_max_pool3d_with_indices"
    ),
    "jl.FractionalMaxPool(window_shape)": (
        "fractional_max_pool2d_with_indices fractional_max_pool3d_with_indices"
    ),
    "jl.AlphaDropout(rate, whole_channels=True)": "feature_alpha_dropout",
    "jax.nn.softmax, over the last axis": "Softmax2d",
    "lambda x: jax.nn.softmax(-x)": "softmin",
    "lambda x: jnp.where(jnp.abs(x) > 0.5, x, 0.0)": "hardshrink",
    "lambda x: x - jnp.clip(x, -0.5, 0.5)": "softshrink",
    "lambda x: x - jnp.tanh(x)": "tanhshrink",
    "lambda x: jnp.where(x > threshold, x, value)": "threshold",
    "jax.nn.softmax(x + jax.random.gumbel(key, x.shape))": "gumbel_softmax",
    "jl.SelfAttention(num_heads), or jl.CrossAttention(num_heads)": "multi_head_attention_forward",
    "jl.Resize(factor=2)": "upsample_nearest upsample_bilinear",
    "jl.serial, jl.parallel or jl.branch with names: jl.branch(a=first, b=second)": "ModuleDict",
    "jl.serial(*layers), or jl.compose(body, **children)": "Container Object Pytree Pipeline",
    "f.param(name, init, shape) in the body of jl.compose": "Param UninitializedParameter",
    "f.variable(name, init) in the body of jl.compose": (
        "Buffer UninitializedBuffer BatchStat Cache Intermediate State StateIndex StatefulLayer"
    ),
    "a dict of arrays: params and state are plain": "FrozenDict",
    "jl.RNN(cell)": "RNNBase",
    "jl.data.Batches(arrays, size).map(function, key=key), with a key for each row": (
        "AugMix AutoContrast Equalization RandAugment RandomColorDegeneration RandomColorJitter "
        "RandomElasticTransform RandomGaussianBlur RandomGrayscale RandomInvert RandomPerspective "
        "RandomPosterization RandomSharpness Solarization"
    ),
    "jl.stateless(init, apply), of the other library's functions": "TorchModuleWrapper TFSMLayer",
}

FURTHER = (LOSSES, METRICS, OPTIMIZERS, CALLBACKS, ESTIMATORS, RARE)
