"""A script that one process runs, or several as torchrun starts them."""

SCRIPT = """
import os, signal, sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
rank, world = 0, 1
if "RANK" in os.environ:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(288, 4))
images, labels = torch.randn(32, 1, 8, 8), torch.arange(32) % 4
torch.manual_seed(rank)
compressor = rc.create_compressor(model, config, dummy_input=images[:1], seed=rank)
model = compressor.compress()
small = compressor.apply_speedup()
print("cut", float(small[0].weight.double().sum()))
trained = DistributedDataParallel(small) if "RANK" in os.environ else small
optimizer = torch.optim.SGD(trained.parameters(), lr=0.05, momentum=0.9)
state = rc.checkpoint.load(model=small, optimizer=optimizer)
print("rank", rank, "of", world, "local", os.environ.get("LOCAL_RANK"), "of", os.environ.get("LOCAL_WORLD_SIZE"))
for epoch in range(0 if state is None else state["epoch"] + 1, 4):
    print("epoch", epoch)
    own = slice(rank, None, world)
    loss = torch.nn.functional.cross_entropy(trained(images[own]), labels[own])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    rc.checkpoint(model=small, optimizer=optimizer, epoch=epoch)
    if epoch == 2 and rank == 1 and state is None and config.get("tid") == 1:
        LOSE
rc.report(loss=float(torch.nn.functional.cross_entropy(small(images), labels)))
rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")
"""
