import torch

from lightning_gradtools.tasks import ResidualMLP


def test_parameter_count():
    inputs, width, outputs, depth = 5, 11, 3, 4
    network = ResidualMLP(inputs, outputs, width, depth)
    block = 2 * (width + 1) * width + 2 * width
    expected = (inputs + 1) * width + depth * block + 2 * width + (width + 1) * outputs
    assert sum(p.numel() for p in network.parameters()) == expected


def test_a_block_whose_branch_is_zero_is_the_identity():
    network = ResidualMLP(5, 3, width=7, depth=3, norm="none")
    x = torch.randn(4, 5)
    with torch.no_grad():
        for block in network.blocks:
            block.contract.weight.zero_()
            block.contract.bias.zero_()
    torch.testing.assert_close(network(x), network.output(network.input(x)))


def test_two_hundred_layers_do_not_make_the_first_gradient_vanish():
    torch.manual_seed(0)
    network = ResidualMLP(8, 3, width=16, depth=100)
    network(torch.randn(32, 8)).square().sum().backward()
    first, last = network.blocks[0].expand.weight.grad, network.blocks[-1].expand.weight.grad
    assert 0.1 < first.norm() / last.norm() < 1000
