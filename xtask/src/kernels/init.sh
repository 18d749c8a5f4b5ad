#!/bin/busybox sh
# The first process of a machine that `cargo xtask kernels` boots: makes it ready, does what /steps says
# line by line (a name, seconds, a line of shell), tells on the first serial port how each went, and
# turns the machine off.

/bin/busybox mkdir -p /opt/busybox /proc /sys /dev /tmp /run
/bin/busybox --install -s /opt/busybox
export PATH=/usr/sbin:/usr/bin:/opt/busybox HOME=/root LC_ALL=C.UTF-8

mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t debugfs debug /sys/kernel/debug
ln -s /proc/self/fd /dev/fd

stty -F /dev/ttyS0 raw
exec </dev/null >/dev/ttyS0 2>&1

# Whatever happens, and whoever has forgotten this machine.
read -r limit </limit
(sleep "$limit" && echo "@late" && poweroff -f) &

hostname kernels
sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
ip link set lo up
ip link add uplink0 type veth peer name outside0
ip link set outside0 up
ip link set uplink0 up
ip address add 192.0.2.2/24 dev uplink0
ip route add default via 192.0.2.1

echo "@release $(uname -r)"
while read -r name seconds line; do
    echo "@begin $name"
    # Some wait for what they have started, so their input must not be the list of steps.
    timeout -k 10 "$seconds" sh -c "$line" </dev/null
    echo "@end $name $?"
done </steps
echo "@done"
poweroff -f
