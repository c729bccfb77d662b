import numpy as np
import torch

from ops.color.reference import LIGHT, NOISE, SIMILARITY, nearest, transferred


def test_colors_go_to_cells_that_look_alike_and_are_as_light() -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(2, 50, generator=generator)
    reference = torch.cat([kinds[:1].expand(30, -1), kinds[1:].expand(30, -1)])
    difference = torch.cat([torch.tensor([[0.2, 0.0]]).expand(30, -1), torch.tensor([[0.0, -0.3]]).expand(30, -1)])
    asked, light = torch.cat([kinds, -kinds]), torch.tensor([0.0, 0.0, 0.0, 0.0])
    found = transferred(asked, light, reference, torch.zeros(60), difference)
    assert found[0, 0] > 0.03
    assert found[1, 1] < -0.05
    assert found[0, 0] > 3 * found[1, 0].abs()
    far = transferred(asked, light + 2.0, reference, torch.zeros(60), difference)
    assert far.abs().max() < 1e-4


def test_transfer_is_the_mean_of_a_gaussian_process() -> None:
    generator = torch.Generator().manual_seed(1)
    features, reference = (torch.randn(count, 20, generator=generator) for count in (4, 6))
    light, its = (torch.rand(count, generator=generator) for count in (4, 6))
    difference = torch.randn(6, 2, generator=generator)

    def covariance(one: torch.Tensor, first: torch.Tensor, other: torch.Tensor, second: torch.Tensor) -> np.ndarray:
        found = np.empty((len(one), len(other)))
        for i in range(len(one)):
            for j in range(len(other)):
                cosine = float(torch.nn.functional.cosine_similarity(one[i], other[j], dim=0))
                near = np.exp(-(((float(first[i]) - float(second[j])) / LIGHT) ** 2) / 2)
                found[i, j] = np.exp((cosine - 1) / SIMILARITY) * near
        return found

    weights = np.linalg.solve(covariance(reference, its, reference, its) + NOISE * np.eye(6), difference.numpy())
    expected = covariance(features, light, reference, its) @ weights
    found = transferred(features, light, reference, its, difference)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_the_nearest_reference_looks_most_like_the_image() -> None:
    references = torch.eye(3)
    assert nearest(torch.tensor([[0.1, 0.9, 0.2], [0.0, 3.0, 1.0]]), references) == 1
