#!/usr/bin/busybox sh
# The first process of the virtual machine: mounts, modules, the job, its exit code, power off.
export PATH=/usr/sbin:/usr/bin HOME=/root TERM=dumb LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null
ln -sf /proc/self/fd /dev/fd
mkdir -p /run/netns /run/lock
# ip, nft and tc load nothing by themselves when a module is missing, and fail in odd words.
for module in virtio_pci virtio_blk virtio_net veth "dummy numdummies=0"; do
    modprobe $module 2>/dev/null
done
hostname portcullis-vm
ip link set lo up
ulimit -n 65536
sysctl -qw kernel.printk="4 4 1 7"
mkdir -p /results

echo "virtual machine up after $(cut -d' ' -f1 /proc/uptime) s: Linux $(uname -r), $(nproc) CPUs"
export PORTCULLIS_VM=1 PORTCULLIS_RESULTS=/results
# Through a pipe: on a terminal, and the console is one, programs draw instead of telling.
{ /job </dev/null 2>&1; echo $? >/run/exit-code; } | cat
code=$(cat /run/exit-code)

dmesg > /results/dmesg.txt 2>&1
tar -C /results -cf /dev/vda . 2>/dev/null
sync
echo "portcullis-vm-exit-code: $code"
poweroff -f
