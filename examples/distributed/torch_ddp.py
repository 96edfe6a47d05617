"""Train in two CPU processes with PyTorch, batch normalization over the global batch.

    KERAS_BACKEND=torch torchrun --nproc-per-node 2 examples/distributed/torch_ddp.py

On several machines, start the same script on each of them, with its own rank:

    KERAS_BACKEND=torch torchrun --nnodes 2 --node-rank 0 --nproc-per-node 8 \
        --master-addr host0 --master-port 1234 examples/distributed/torch_ddp.py

With GPUs, use "nccl" instead of "gloo", and call
`torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))` first.
"""

import argparse

import keras
import torch
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import distributed

import keras_norm


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=5)
    epochs = parser.parse_args().epochs
    distributed.init_process_group("gloo")
    rank, processes = distributed.get_rank(), distributed.get_world_size()

    keras.utils.set_random_seed(0)  # the same weights everywhere
    digits = load_digits()
    x, x_test, y, y_test = train_test_split(
        digits.data.astype("float32"), digits.target, test_size=0.25, random_state=0
    )
    x_test, y_test = torch.tensor(x_test), torch.tensor(y_test)
    train = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
    shard = torch.utils.data.DistributedSampler(train, num_replicas=processes, rank=rank)
    batches = torch.utils.data.DataLoader(train, batch_size=32 // processes, sampler=shard)

    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(64, use_bias=False),
            keras_norm.BatchNormalization(synchronized=True),
            layers.ReLU(),
            layers.Dense(10),
        ]
    )
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(p for p in parallel.parameters() if p.requires_grad)
    loss_function = torch.nn.CrossEntropyLoss()
    for epoch in range(epochs):
        shard.set_epoch(epoch)
        for inputs, targets in batches:
            optimizer.zero_grad()
            loss = loss_function(parallel(inputs, training=True), targets)
            loss.backward()
            optimizer.step()
        if rank == 0:
            print(f"epoch {epoch + 1}: loss {loss.item():.3f} in the last batch")

    # Each process passes its shard, and all processes get the statistics of all data.
    keras_norm.update_population_statistics(model, batches, verbose=0)
    with torch.no_grad():
        accuracy = (model(x_test).argmax(-1) == y_test).float().mean().item()
    if rank == 0:
        print(f"{processes} processes, test accuracy {accuracy:.3f}")
    # Without the barrier, the group may still be freeing a tensor when it is destroyed: the group
    # then waits for this thread, and this thread for the group.
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
