#!/bin/bash
# One training on any number of nodes, whose processes torchrun starts: a task a node, not a GPU.
#   sbatch docs/jobs/torchrun.sh --config clouds/fpn --data.root FOLDER --model.pretrained FILE
#SBATCH --job-name=belvedere
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=32
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@300          # USR1 would end torchrun itself
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append

export WANDB_MODE=offline
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=280 # seconds that torchrun, which is signalled too, gives its processes to save
gpus=${GPUS:-4}                    # of a node
head=${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$gpus" \
  --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$head:$((20000 + SLURM_JOB_ID % 10000))" \
  -m belvedere fit --config ddp "$@" \
  --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$gpus" \
  --output "runs/$SLURM_JOB_NAME-$SLURM_JOB_ID" --resume auto
