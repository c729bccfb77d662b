"""Batch normalization over all processes."""

import torch
from lightning.pytorch.plugins import TorchSyncBatchNorm
from torch import nn


class SyncBatchNorm(TorchSyncBatchNorm):
    """Synchronizes batch normalization, as `trainer.sync_batchnorm` does, and keeps the activations of timm's layers.

    timm's `BatchNormAct2d` normalizes and activates in one layer. torch's conversion, which Lightning uses, replaces it
    by a layer that only normalizes: a `tu-…` encoder would train without activations.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        from timm.layers import convert_sync_batchnorm

        converted: nn.Module = convert_sync_batchnorm(model)
        return converted

    def revert(self, model: nn.Module) -> nn.Module:
        from timm.layers import BatchNormAct2d
        from timm.layers.norm_act import SyncBatchNormAct

        if not isinstance(model, SyncBatchNormAct):
            reverted = super().revert(model)  # calls this method for each child
            return reverted if reverted is model else reverted.train(model.training)
        with torch.device("meta"):  # its weights are those of the other layer
            layer: nn.Module = BatchNormAct2d(
                model.num_features, model.eps, model.momentum, model.affine, model.track_running_stats
            )
        layer.weight, layer.bias = model.weight, model.bias
        layer.running_mean, layer.running_var = model.running_mean, model.running_var
        layer.num_batches_tracked = model.num_batches_tracked
        layer.act, layer.drop = model.act, model.drop
        return layer.train(model.training)
