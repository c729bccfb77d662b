import timm
import torch
from lightning.pytorch.plugins import TorchSyncBatchNorm
from torch import nn

from tasks.networks.batch_norm import SyncBatchNorm


def network() -> nn.Module:
    torch.manual_seed(0)
    # timm's layers, which also activate, and one of torch's
    return nn.Sequential(
        timm.create_model("mobilenetv2_035", num_classes=0, global_pool=""), nn.BatchNorm2d(1280)
    ).eval()


def test_activations_stay() -> None:
    image = torch.rand(2, 3, 64, 64)
    expected, synchronized = network()(image), SyncBatchNorm().apply(network())
    assert {type(each).__name__ for each in synchronized.modules()} >= {"SyncBatchNorm", "SyncBatchNormAct"}
    torch.testing.assert_close(synchronized(image), expected)
    lost = TorchSyncBatchNorm().apply(network())(image)
    assert not torch.allclose(lost, expected, rtol=0.1), "Lightning keeps activations now: remove SyncBatchNorm"


def test_layers_are_restored_after_training() -> None:
    image, model = torch.rand(2, 3, 64, 64), network()
    expected, state = model(image), list(model.state_dict())
    restored = SyncBatchNorm().revert(SyncBatchNorm().apply(model))
    assert list(restored.state_dict()) == state
    assert not any(isinstance(each, nn.SyncBatchNorm) for each in restored.modules())
    assert not any(each.training for each in restored[0].modules())
    torch.testing.assert_close(restored(image), expected)
