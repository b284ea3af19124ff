//! A conversation of the docker CLI with the engine: what is typed, how it ends, and a part of what is printed.
//!
//! Expectations are docker's own behaviour. A line is `(command, exit status, what its output has)`; `\n` parts of it must all be
//! there, and one that begins with `!` must not. `@name` holds the line before until it is true, for what takes a moment.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::support::engine::Daemon;

type Line = (&'static str, i32, &'static str);

/// What takes a moment has so long.
const MOMENT: Duration = Duration::from_secs(20);

fn talk(daemon: &Daemon, lines: &[Line]) {
    for (command, status, expected) in lines {
        let (patient, command) =
            command.strip_prefix('@').map_or((false, *command), |command| (true, command));
        let begun = Instant::now();
        loop {
            let told = check(daemon, command, *status, expected);
            match told {
                Ok(()) => break,
                Err(_) if patient && begun.elapsed() < MOMENT => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(told) => panic!("docker {command}\n{told}\ndaemon: {}", daemon.log()),
            }
        }
    }
}

fn check(daemon: &Daemon, command: &str, status: i32, expected: &str) -> Result<(), String> {
    let words = shell_words::split(command).unwrap();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = daemon.docker(&words);
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let found = output.status.code();
    if found != Some(status) {
        return Err(format!("ended with {found:?}, expected {status}: {text}"));
    }
    for part in expected.split('\n').filter(|part| !part.is_empty()) {
        let (absent, part) = part.strip_prefix('!').map_or((false, part), |part| (true, part));
        if text.contains(part) == absent {
            let must = if absent { "must not have" } else { "must have" };
            return Err(format!("{must} {part:?}: {text}"));
        }
    }
    Ok(())
}

#[test]
fn containers_live_as_dockers_do() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    talk(
        &daemon,
        &[
            ("version", 0, "Server: Knarr\nAPI version"),
            ("info", 0, "Storage Driver\nCgroup Driver: cgroupfs"),
            ("run --rm bb echo hello", 0, "hello"),
            ("run --rm bb sh -c 'echo out; echo err >&2; exit 3'", 3, "out\nerr"),
            ("run --rm bb no-such-program", 127, "executable file not found in $PATH"),
            ("run --rm bb /etc", 126, "permission denied"),
            (
                "run --rm no-such-image-here true",
                125,
                "Unable to find image 'no-such-image-here:latest' locally",
            ),
            ("run --rm --memory 1m bb true", 125, "Minimum memory limit allowed is 6MB"),
            (
                "run --rm -w relative bb true",
                125,
                "the working directory 'relative' is invalid, it needs to be an absolute path",
            ),
            (
                "run --rm -u nobody-here bb true",
                125,
                "unable to find user nobody-here: no matching entries in passwd file",
            ),
            ("run --rm --restart always bb true", 125, "onflicting options"),
            ("ps -a -q", 0, "!a"),
            ("run -d --name one --label color=red -e A=1 bb sleep 1000", 0, ""),
            (
                "run -d --name one bb true",
                125,
                "Conflict. The container name \"/one\" is already in use by container",
            ),
            ("ps", 0, "CONTAINER ID\none\nsleep 1000\nUp "),
            ("ps --format {{.Names}}:{{.State}}", 0, "one:running"),
            ("ps -q --filter label=color=red", 0, ""),
            ("ps --filter label=color=blue --format {{.Names}}", 0, "!one"),
            ("ps --filter name=on --filter status=running --format {{.Names}}", 0, "one"),
            ("ps --filter status=sleeping", 1, "invalid filter 'status=sleeping'"),
            ("ps --filter nonsense=1", 1, "invalid filter 'nonsense'"),
            ("ps -a --filter ancestor=bb --format {{.Names}}", 0, "one"),
            ("inspect one --format {{.State.Status}}", 0, "running"),
            ("inspect one --format {{.HostConfig.NetworkMode}}", 0, "bridge"),
            ("inspect one --format '{{json .Config.Env}}'", 0, "\"A=1\""),
            ("inspect one --format {{.Path}}", 0, "sleep"),
            ("inspect one --format {{.NetworkSettings.Networks.bridge.IPAddress}}", 0, "172.17.0."),
            ("inspect nobody-here", 1, "No such object: nobody-here"),
            ("exec one echo inside", 0, "inside"),
            ("exec one sh -c 'exit 5'", 5, ""),
            ("exec one no-such-program", 127, "executable file not found in $PATH"),
            ("exec -e B=2 -w /tmp one sh -c 'echo $A$B $PWD'", 0, "12 /tmp"),
            ("exec -u www one id", 0, "uid=33(www) gid=33(www)"),
            ("exec -u 1000:1000 one id -u", 0, "1000"),
            ("exec -d one touch /tmp/made", 0, ""),
            ("@exec one ls /tmp/made", 0, "/tmp/made"),
            ("exec nobody-here true", 1, "No such container: nobody-here"),
            ("top one", 0, "UID\nPID\nsleep 1000"),
            ("top one -o pid,comm", 0, "PID\nsleep"),
            ("stats --no-stream one", 0, "CPU %\none"),
            ("diff one", 0, "C /tmp\nA /tmp/made"),
            ("pause one", 0, "one"),
            ("ps --format {{.Status}}", 0, "(Paused)"),
            ("exec one true", 1, "is paused, unpause the container before exec"),
            ("pause one", 1, "is already paused"),
            ("unpause one", 0, "one"),
            ("unpause one", 1, "is not paused"),
            ("rename one uno", 0, ""),
            ("inspect one", 1, "No such object: one"),
            ("inspect uno --format {{.Name}}", 0, "/uno"),
            ("rename uno one", 0, ""),
            ("update --memory 64m --memory-swap -1 one", 0, "one"),
            ("inspect one --format {{.HostConfig.Memory}}", 0, "67108864"),
            ("update --restart on-failure:2 one", 0, "one"),
            ("update --memory 1m one", 1, "Minimum memory limit allowed is 6MB"),
            (
                "rm one",
                1,
                "cannot remove container \"one\": container is running: stop the container before removing or force remove",
            ),
            ("kill -s USR9 one", 1, "invalid signal: USR9"),
            ("stop -t 0 one", 0, "one"),
            ("stop one", 0, "one"),
            ("wait one", 0, "137"),
            ("inspect one --format {{.State.ExitCode}}:{{.State.Running}}", 0, "137:false"),
            ("kill one", 1, "is not running"),
            ("exec one true", 1, "is not running"),
            ("pause one", 1, "is not running"),
            ("ps -a --format {{.Status}} --filter exited=137", 0, "Exited (137)"),
            ("start one", 0, "one"),
            ("start one", 0, "one"),
            ("restart -t 0 one", 0, "one"),
            ("inspect one --format {{.State.Status}}", 0, "running"),
            ("rm -f one", 0, "one"),
            ("rm one", 1, "No such container: one"),
            ("rm -f one", 0, "No such container: one"),
            ("create --name two bb sh -c 'echo twice; exit 4'", 0, ""),
            ("ps -a --format {{.Status}}", 0, "Created"),
            ("start -a two", 4, "twice"),
            ("logs two", 0, "twice"),
            ("start -a two", 4, "twice"),
            ("logs --tail 1 two", 0, "twice"),
            ("logs -t two", 0, "Z twice"),
            ("logs --since 1h two", 0, "twice"),
            ("logs --until 1h two", 0, "!twice"),
            ("logs nobody-here", 1, "No such container: nobody-here"),
            ("container prune -f", 0, "Deleted Containers"),
            ("ps -a --format {{.Names}}", 0, "!two"),
            ("run --name tty -t bb tty", 0, "/dev/pts/0"),
            ("rm tty", 0, "tty"),
            ("run --name bye -d bb sh -c 'trap \"exit 9\" TERM; while :; do sleep 0.1; done'", 0, ""),
            ("@exec bye true", 0, ""),
            ("stop bye", 0, "bye"),
            ("inspect bye --format {{.State.ExitCode}}", 0, "9"),
            ("rm bye", 0, "bye"),
            ("attach nobody-here", 1, "No such container: nobody-here"),
            (
                "@events --since 1h --until 0s --filter type=container --filter event=die --format {{.Actor.Attributes.exitCode}}",
                0,
                "137\n9",
            ),
            ("system df", 0, "Images\nContainers\nLocal Volumes"),
            ("builder prune -f", 0, "Total"),
        ],
    );
}

#[test]
fn limits_and_guards_hold_inside() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    talk(
        &daemon,
        &[
            ("run --rm --hostname ship bb hostname", 0, "ship"),
            ("run --rm -e A=b bb env", 0, "A=b\nPATH=\nHOSTNAME=\nHOME=/root"),
            ("run --rm -u www bb sh -c 'id -un; echo $HOME'", 0, "www\n/tmp"),
            ("run --rm --group-add 77 bb id -G", 0, "77"),
            ("run --rm --read-only bb touch /x", 1, "Read-only file system"),
            ("run --rm --read-only --tmpfs /x:size=1m bb sh -c 'touch /x/y; df -k /x'", 0, "1024"),
            ("run --rm --ulimit nofile=123:456 bb sh -c 'ulimit -n; ulimit -Hn'", 0, "123\n456"),
            ("run --rm --sysctl net.ipv4.ip_forward=1 bb cat /proc/sys/net/ipv4/ip_forward", 0, "1"),
            ("run --rm bb sh -c 'grep CapEff /proc/self/status'", 0, "00000000a80425fb"),
            ("run --rm --cap-drop ALL bb sh -c 'grep CapEff /proc/self/status'", 0, "0000000000000000"),
            (
                "run --rm --cap-drop ALL --cap-add CHOWN bb sh -c 'grep CapEff /proc/self/status'",
                0,
                "0000000000000001",
            ),
            ("run --rm --cap-add NONSENSE bb true", 125, "invalid"),
            ("run --rm bb mount -t tmpfs t /tmp", 1, "ermission denied"),
            ("run --rm --privileged bb mount -t tmpfs t /tmp", 0, ""),
            ("run --rm --security-opt no-new-privileges bb grep NoNewPrivs /proc/self/status", 0, "1"),
            ("run --rm bb grep Seccomp: /proc/self/status", 0, "2"),
            ("run --rm --security-opt seccomp=unconfined bb grep Seccomp: /proc/self/status", 0, "0"),
            ("run --rm --shm-size 8m bb df -k /dev/shm", 0, "8192"),
            ("run --rm --pid host bb sh -c 'test $$ != 1'", 0, ""),
            ("run --rm --oom-score-adj 500 bb cat /proc/self/oom_score_adj", 0, "500"),
            ("run --rm --device /dev/zero:/dev/nil bb head -c 1 /dev/nil", 0, ""),
            ("run --rm --device /dev/no-such-device bb true", 125, "error gathering device information"),
            ("run --rm bb sh -c 'echo 1 > /proc/sys/kernel/panic'", 1, "Read-only file system"),
            ("run --rm bb ls /sys/firmware", 0, "!efi"),
            ("run -d --name base --ipc shareable bb sleep 1000", 0, ""),
            ("run --rm --pid container:base bb ps", 0, "sleep 1000"),
            ("run --rm --network container:base bb sh -c 'cat /etc/hostname; hostname'", 0, ""),
            ("exec base sh -c 'echo 10.1.2.3 added >> /etc/hosts'", 0, ""),
            ("run --rm --network container:base bb cat /etc/hosts", 0, "10.1.2.3 added"),
            ("create --name cleaned -w /a/../b/ --pids-limit -1 bb true", 0, ""),
            ("inspect cleaned --format '{{.Config.WorkingDir}} {{.HostConfig.PidsLimit}}'", 0, "/b <nil>"),
            ("rm cleaned", 0, ""),
            ("run --rm --ipc container:base bb ls /dev/shm", 0, ""),
            ("run --rm --network container:nobody-here bb true", 125, "No such container: nobody-here"),
            ("rm -f base", 0, "base"),
            ("run --rm -m 32m --memory-swap 32m bb sh -c 'tail /dev/zero'", 137, ""),
            ("run --name oom -m 32m --memory-swap 32m bb sh -c 'tail /dev/zero'", 137, ""),
            ("inspect oom --format {{.State.OOMKilled}}", 0, "true"),
            ("rm oom", 0, ""),
            (
                "run --rm --pids-limit 3 bb sh -c 'for i in 1 2 3 4 5 6; do sleep 1 & done; wait'",
                2,
                "can't fork",
            ),
            ("run --rm --add-host far:10.9.8.7 bb cat /etc/hosts", 0, "10.9.8.7\tfar\n127.0.0.1\tlocalhost"),
            (
                "run --rm --dns 10.1.2.3 --dns-search example.org bb cat /etc/resolv.conf",
                0,
                "nameserver 10.1.2.3\nsearch example.org",
            ),
            ("create --name named --runtime runc bb true", 0, ""),
            ("inspect named --format {{.HostConfig.Runtime}}", 0, "runc"),
            ("rm named", 0, ""),
            ("run --rm --runtime io.containerd.runc.v2 bb true", 0, ""),
            ("run --rm --runtime runsc bb true", 125, "unknown or invalid runtime name: runsc"),
            ("info --format '{{json .Runtimes}}'", 0, "\"runc\":\n\"knarr\":\n\"io.containerd.runc.v2\":"),
        ],
    );
}

#[test]
fn an_init_reaps_and_passes_signals_on() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    let trap = "run -d --init --name heeds bb sh -c 'trap \"exit 9\" TERM; while :; do sleep 0.1; done'";
    talk(
        &daemon,
        &[
            ("run --rm --init bb sh -c 'echo $$; exit 7'", 7, "2"),
            ("run --rm --init bb sh -c 'kill -9 $$'", 137, ""),
            (
                "run --rm --init -t bb sh -c 'tty; set -- $(cat /proc/$$/stat); echo group $5 $8'",
                0,
                "/dev/pts/0\ngroup 2 2",
            ),
            ("run --rm --init bb no-such-program", 127, "executable file not found in $PATH"),
            ("run --rm --init -u 1000 --read-only --cap-drop ALL bb id -u", 0, "1000"),
            ("run --rm --init --pid host bb sh -c 'test $$ != 2'", 0, ""),
            (trap, 0, ""),
            ("inspect heeds --format {{.HostConfig.Init}}", 0, "true"),
            ("exec heeds cat /proc/1/comm", 0, "docker-init"),
            ("exec heeds cat /proc/1/cmdline", 0, "/sbin/docker-init\n!knarr"),
            ("exec heeds sh -c '(sleep 0.1 &); sleep 0.3; ps -o stat,args'", 0, "STAT\n!Z"),
            ("stop heeds", 0, "heeds"),
            ("inspect heeds --format {{.State.ExitCode}}", 0, "9"),
        ],
    );
}

#[test]
fn restarts_and_health_follow_their_policies() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    talk(
        &daemon,
        &[
            ("run -d --name fails --restart on-failure:2 bb sh -c 'exit 1'", 0, ""),
            ("@inspect fails --format {{.RestartCount}}:{{.State.Status}}", 0, "2:exited"),
            ("run -d --name always --restart always bb sh -c 'sleep 0.2'", 0, ""),
            ("@inspect always --format {{.RestartCount}}", 0, "2"),
            ("stop always", 0, "always"),
            ("inspect always --format {{.State.Status}}", 0, "exited"),
            ("rm fails always", 0, "fails\nalways"),
            (
                "run -d --name well --health-cmd 'test -e /tmp/well' --health-interval 200ms --health-retries 2 bb sleep 1000",
                0,
                "",
            ),
            ("@inspect well --format {{.State.Health.Status}}", 0, "unhealthy"),
            ("exec well touch /tmp/well", 0, ""),
            ("@inspect well --format {{.State.Health.Status}}", 0, "healthy"),
            ("@ps --format {{.Status}}", 0, "(healthy)"),
            ("ps --filter health=healthy --format {{.Names}}", 0, "well"),
            ("inspect well --format '{{json .State.Health.Log}}'", 0, "ExitCode\":0"),
            ("rm -f well", 0, "well"),
        ],
    );
}

#[test]
fn volumes_keep_files() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    talk(
        &daemon,
        &[
            ("volume create kept --label use=test", 0, "kept"),
            ("volume create kept", 0, "kept"),
            ("volume create 'not/a/name'", 1, "includes invalid characters for a local volume name"),
            ("volume create -d nonsense other", 1, "plugin \"nonsense\" not found"),
            ("volume ls", 0, "DRIVER\nVOLUME NAME\nkept"),
            ("volume ls -q --filter label=use=test", 0, "kept"),
            ("volume ls -q --filter dangling=true", 0, "kept"),
            ("volume inspect kept --format {{.Driver}}:{{.Scope}}", 0, "local:local"),
            ("volume inspect nobody-here", 1, "no such volume"),
            ("run --rm -v kept:/data bb sh -c 'echo content > /data/file'", 0, ""),
            ("run --rm -v kept:/data:ro bb cat /data/file", 0, "content"),
            ("run --rm -v kept:/data:ro bb touch /data/x", 1, "Read-only file system"),
            ("run --rm --mount type=volume,src=kept,dst=/data bb ls /data", 0, "file"),
            (
                "run --rm --mount type=bind,src=/no/such/place,dst=/data bb true",
                125,
                "bind source path does not exist: /no/such/place",
            ),
            ("run --rm -v kept:relative bb true", 125, "invalid"),
            ("run --rm -v /tmp:/data -v kept:/data bb true", 125, "Duplicate mount point: /data"),
            ("run --rm --mount type=tmpfs,dst=/fast,tmpfs-size=2097152 bb df -k /fast", 0, "2048"),
            ("run -d --name user -v kept:/data -v /anonymous bb sleep 1000", 0, ""),
            ("volume rm kept", 1, "volume is in use"),
            ("volume ls -q --filter dangling=true", 0, "!kept"),
            ("inspect user --format '{{range .Mounts}}{{.Destination}} {{end}}'", 0, "/data\n/anonymous"),
            ("run --rm --volumes-from user bb cat /data/file", 0, "content"),
            ("rm -f -v user", 0, "user"),
            ("volume ls -q", 0, "kept"),
            ("volume prune -f", 0, "Total reclaimed space"),
            ("volume ls -q", 0, "kept"),
            ("volume prune -f -a", 0, "kept"),
            ("volume rm kept", 1, "no such volume"),
            ("volume rm -f kept", 0, ""),
            (
                "create -v /etc/passwd bb true",
                1,
                "cannot mount volume over existing file, file exists /etc/passwd",
            ),
            ("volume ls --format x{{.Driver}}", 0, "!xlocal"),
            ("create --name copies -v filled:/etc bb sleep 1000", 0, ""),
            ("run --rm -v filled:/data bb cat /data/passwd", 0, "www:x:33"),
            ("run --rm -v filled:/data bb rm /data/group", 0, ""),
            ("start copies", 0, ""),
            ("exec copies ls /etc", 0, "passwd\n!group"),
            ("exec copies cat /etc/passwd", 0, "www:x:33"),
            ("rm -f copies", 0, ""),
            ("volume rm filled", 0, "filled"),
        ],
    );
}

#[test]
fn networks_find_and_part() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    talk(
        &daemon,
        &[
            ("network ls", 0, "NETWORK ID\nbridge\nhost\nnone\nnull"),
            ("network inspect bridge --format '{{(index .IPAM.Config 0).Subnet}}'", 0, "172.17.0.0/16"),
            ("network rm bridge", 1, "bridge is a pre-defined network and cannot be removed"),
            ("network create --subnet 10.77.0.0/24 --label a=b near", 0, ""),
            ("network create near", 1, "network with name near already exists"),
            (
                "network create --subnet 10.77.0.0/25 other",
                1,
                "Pool overlaps with other one on this address space",
            ),
            ("network create -d nonsense other", 1, "could not find plugin nonsense"),
            ("network create bridge", 1, "predefined bridge network"),
            ("network ls -q --filter name=near --filter driver=bridge", 0, ""),
            ("network ls --filter type=custom --format {{.Name}}", 0, "near\n!host"),
            (
                "run -d --name web --network near --network-alias site --ip 10.77.0.9 -p 8080:80 bb sh -c 'echo page > /tmp/index.html; httpd -f -h /tmp'",
                0,
                "",
            ),
            ("@run --rm --network near bb wget -qO- http://web/", 0, "page"),
            ("run --rm --network near bb wget -qO- http://site/", 0, "page"),
            ("run --rm --network near bb nslookup web", 0, "10.77.0.9"),
            ("run --rm bb sh -c 'nc -w 2 -z 10.77.0.9 80 || echo parted'", 0, "parted"),
            ("port web", 0, "80/tcp -> 0.0.0.0:8080"),
            ("port web 80", 0, "0.0.0.0:8080"),
            ("run -d --name late -p 8080:80 bb sleep 1000", 125, "port is already allocated"),
            ("rm -f late", 0, ""),
            ("network rm near", 1, "has active endpoints"),
            (
                "network inspect near --format '{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}'",
                0,
                "web 10.77.0.9/24",
            ),
            ("run -d --name walker bb sleep 1000", 0, ""),
            ("network connect --alias rover near walker", 0, ""),
            ("exec walker wget -qO- http://web/", 0, "page"),
            ("exec web ping -c 1 -w 5 rover", 0, "1 packets received"),
            ("network connect near walker", 1, "already exists in network near"),
            ("exec walker ls /sys/class/net", 0, "eth0\neth1"),
            ("network disconnect near walker", 0, ""),
            ("exec walker ls /sys/class/net", 0, "eth0\n!eth1"),
            ("network disconnect near walker", 1, "is not connected"),
            ("run --rm --network none bb ls /sys/class/net", 0, "lo\n!eth0"),
            ("run --rm --network host bb ls /sys/class/net", 0, "knarr0"),
            ("run --rm --network nobody-here bb true", 125, "network nobody-here not found"),
            ("create --name early --network later bb sleep 1000", 0, ""),
            ("start early", 1, "network later not found"),
            ("network create --subnet 10.78.0.0/24 later", 0, ""),
            ("start early", 0, "early"),
            (
                "inspect early --format '{{(index .NetworkSettings.Networks \"later\").IPAddress}}'",
                0,
                "10.78.0.",
            ),
            ("rm -f early", 0, ""),
            ("create --name early --network later --ip 10.78.0.9 bb sleep 1000", 0, ""),
            ("network rm later", 0, ""),
            ("network disconnect later early", 0, ""),
            ("network disconnect -f later early", 1, "is not connected to the network later"),
            ("network disconnect -f near no-such-one", 1, "endpoint no-such-one not found"),
            ("network disconnect near no-such-one", 1, "No such container: no-such-one"),
            ("rm early", 0, ""),
            (
                "create --network near --ip 10.99.0.9 bb true",
                1,
                "invalid config for network near: invalid endpoint settings:\nno configured subnet contains IP address 10.99.0.9",
            ),
            (
                "create --ip 172.17.0.9 bb true",
                1,
                "invalid config for network bridge: invalid endpoint settings:\nuser-specified IP address is supported on user-defined networks only",
            ),
            ("run -d --name hosted --network host bb sleep 1000", 0, ""),
            ("run -d --name alone --network none bb sleep 1000", 0, ""),
            (
                "network inspect host --format '{{range .Containers}}{{.Name}}={{.IPv4Address}};{{end}}'",
                0,
                "hosted=;",
            ),
            (
                "network inspect none --format '{{range .Containers}}{{.Name}}={{.IPv4Address}};{{end}}'",
                0,
                "alone=;",
            ),
            ("inspect hosted --format '[{{.NetworkSettings.Networks.host.EndpointID}}]'", 0, "![]"),
            ("rm -f hosted alone", 0, ""),
            ("network create --internal inner", 0, ""),
            ("run --rm --network inner bb ip route", 0, "!default"),
            ("rm -f web walker", 0, ""),
            ("run -d --name db -e PASS=word --expose 5432 bb sleep 1000", 0, ""),
            (
                "run --rm --name asks --link db:my-db bb env",
                0,
                "MY_DB_PORT=tcp://172.17.0.\nMY_DB_PORT_5432_TCP_PORT=5432\nMY_DB_NAME=/asks/my-db\nMY_DB_ENV_PASS=word\n!MY_DB_ENV_PATH",
            ),
            ("run -d --name stays --link db bb sleep 1000", 0, ""),
            ("exec stays env", 0, "DB_ENV_PASS=word"),
            ("run --rm --link nobody-here:x bb true", 125, "could not get container for nobody-here"),
            ("stop -t 0 db", 0, ""),
            (
                "run --rm --name late --link db bb true",
                125,
                "Cannot link to a non running container: /db AS /late/db",
            ),
            ("exec stays true", 0, ""),
            ("rm -f db stays", 0, ""),
            ("network rm near inner", 0, "near\ninner"),
            ("network create gone", 0, ""),
            ("network prune -f", 0, "gone"),
        ],
    );
    let inspect = daemon.ask(&[
        "run",
        "-d",
        "-p",
        "9090:80",
        "bb",
        "sh",
        "-c",
        "echo out > /tmp/index.html; httpd -f -h /tmp",
    ]);
    let begun = Instant::now();
    loop {
        let output = daemon.outside(&["wget", "-qO-", "http://127.0.0.1:9090/"]);
        if output.stdout == b"out\n" {
            break;
        }
        assert!(begun.elapsed() < MOMENT, "{inspect}: {}", String::from_utf8_lossy(&output.stderr));
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn images_come_and_go() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    talk(
        &daemon,
        &[
            ("images", 0, "REPOSITORY\nbb\nlatest"),
            ("image inspect bb --format {{.Os}}", 0, "linux"),
            ("image inspect nobody-here", 1, "No such image: nobody-here"),
            ("history bb", 0, "IMAGE\nCREATED BY"),
            ("tag bb other:1", 0, ""),
            ("tag nobody-here other:2", 1, "No such image: nobody-here"),
            ("tag bb 'UPPER:1'", 1, "invalid reference format"),
            ("images --format {{.Repository}}:{{.Tag}}", 0, "bb:latest\nother:1"),
            ("images --filter reference=oth* --format {{.Repository}}", 0, "other\n!bb"),
            ("run --name maker bb sh -c 'echo mine > /file'", 0, ""),
            ("commit -m remark -c 'CMD [\"cat\", \"/file\"]' maker made:1", 0, "sha256:"),
            ("run --rm made:1", 0, "mine"),
            ("history made:1", 0, "remark"),
            ("image inspect made:1 --format {{.Parent}}", 0, "sha256:"),
            ("image inspect bb --format {{.Parent}}", 0, "!sha256:"),
            ("export -o export.tar maker", 0, ""),
            ("import export.tar flat:1", 0, "sha256:"),
            ("run --rm flat:1 cat /file", 0, "mine"),
            ("save -o saved.tar made:1 other:1", 0, ""),
            ("rmi other:1", 0, "Untagged: other:1"),
            ("rmi -f made:1", 0, "Untagged: made:1"),
            ("load -i saved.tar", 0, "Loaded image: made:1"),
            ("run --rm made:1", 0, "mine"),
            ("rmi nobody-here", 1, "No such image: nobody-here"),
            ("cp maker:/file copied", 0, ""),
            ("cp copied maker:/tmp/again", 0, ""),
            ("cp maker:/tmp/again -", 0, "mine"),
            ("cp maker:/no/such/file x", 1, "Could not find the file /no/such/file in container maker"),
            ("diff maker", 0, "A /file"),
            ("rmi bb", 0, "Untagged: bb:latest"),
            ("rmi other:1", 1, "is using its referenced image"),
            ("rm maker", 0, ""),
            ("image prune -f", 0, "Total reclaimed space"),
            ("rmi flat:1", 0, "Deleted: sha256:"),
            ("build .", 1, ""),
            ("search x", 1, "not supported"),
            ("swarm init", 1, "not supported"),
            ("node ls", 1, "This node is not a swarm manager"),
        ],
    );
}

#[test]
fn a_refusal_is_read_by_who_still_sends() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    for path in ["build", "swarm/init", "plugins/pull", "info", "no/such/page"] {
        let mut connection = daemon.connect();
        let head = format!("POST /v1.45/{path} HTTP/1.1\r\nHost: d\r\nContent-Length: {}\r\n\r\n", 8 << 20);
        connection.write_all(head.as_bytes()).unwrap();
        for _ in 0..8 {
            connection.write_all(&vec![0; 1 << 20]).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        let mut answer = [0; 12];
        connection.read_exact(&mut answer).unwrap();
        assert!(matches!(&answer, b"HTTP/1.1 501" | b"HTTP/1.1 404"), "{path}: {}", answer.escape_ascii());
    }
}

/// Asks for a websocket, and answers with all that comes until it is closed.
fn over_websocket(daemon: &Daemon, path: &str, sent: &[u8]) -> Vec<u8> {
    let mut connection = daemon.connect();
    let head = format!(
        "GET /v1.45{path} HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte).unwrap();
        answer.extend_from_slice(&byte);
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 101") && answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        "{answer}"
    );
    connection.write_all(sent).unwrap();
    let mut all = Vec::new();
    connection.read_to_end(&mut all).unwrap();
    all
}

#[test]
fn a_websocket_has_a_programs_streams() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ask(&["run", "-d", "-i", "--name", "says", "bb", "sh", "-c", "read line; echo \"heard $line\""]);
    // `hi` and the end of its line, masked with nothing.
    let hi = [0x82, 0x83, 0, 0, 0, 0, b'h', b'i', b'\n'];
    let all = over_websocket(&daemon, "/containers/says/attach/ws?stream=1&stdin=1&stdout=1", &hi);
    assert_eq!(all, b"\x82\x09heard hi\n\x88\x02\x03\xe8", "{}", all.escape_ascii());
    talk(&daemon, &[("rm says", 0, "says")]);
}

#[test]
fn a_commit_of_what_ends_meanwhile_is_made() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    for round in 0..20 {
        let name = format!("brief{round}");
        daemon.ask(&["run", "-d", "--name", &name, "bb", "touch", "/made"]);
        daemon.ask(&["commit", &name]);
    }
}

/// What the API itself answers: the docker CLI fills in what is not there.
fn document(daemon: &Daemon, path: &str) -> serde_json::Value {
    let mut connection = daemon.connect();
    write!(connection, "GET /v1.50{path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    serde_json::from_str(body).unwrap()
}

#[test]
fn documents_have_the_fields_that_clients_read() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ask(&["run", "-d", "--name", "one", "bb", "sleep", "1000"]);
    daemon.ask(&["tag", "bb", "same:1"]);
    daemon.ask(&["commit", "one", "more:1"]);
    daemon.ask(&["run", "-d", "--name", "joins", "--network", "container:one", "bb", "sleep", "1000"]);
    let [own, joined] = ["one", "joins"].map(|name| document(&daemon, &format!("/containers/{name}/json")));
    assert_eq!(own["Config"]["Hostname"], own["Id"].as_str().unwrap()[..12]);
    assert_eq!(joined["Config"]["Hostname"], own["Config"]["Hostname"]);
    assert_eq!(joined["HostsPath"], own["HostsPath"]);
    let of_machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(daemon.ask(&["run", "--rm", "--network", "host", "bb", "hostname"]), of_machine.trim());
    assert_eq!(daemon.ask(&["exec", "joins", "hostname"]), own["Config"]["Hostname"].as_str().unwrap());
    daemon.ask(&["rm", "-f", "joins"]);
    let none = serde_json::json!([]);
    let info = document(&daemon, "/info");
    assert_eq!((&info["Isolation"], &info["GenericResources"]), (&"".into(), &none));
    assert_eq!((&info["Swarm"]["RemoteManagers"], &info["Plugins"]["Authorization"]), (&none, &none));
    assert_eq!(info["DefaultRuntime"], "runc");
    let listed = &document(&daemon, "/containers/json?size=1")[0];
    assert!(listed["NetworkSettings"]["Networks"]["bridge"].as_object().unwrap().contains_key("DNSNames"));
    assert_eq!(listed["SizeRw"], 0, "{listed}");
    let size = document(&daemon, "/images/bb/json")["Size"].clone();
    assert_eq!(listed["SizeRootFs"], size);
    let one = document(&daemon, "/containers/one/json");
    assert_eq!(one["HostConfig"]["CgroupnsMode"], "private");
    assert_eq!(one["HostConfig"]["Runtime"], "runc");
    assert_eq!(one["ImageManifestDescriptor"]["digest"], one["Image"]);
    let images = document(&daemon, "/images/json?manifests=1&shared-size=1");
    assert_eq!(images.as_array().unwrap().len(), 2, "{images}");
    for image in images.as_array().unwrap() {
        assert_eq!(
            (&image["SharedSize"], &image["Manifests"][0]["Available"]),
            (&size, &true.into()),
            "{image}"
        );
        assert_eq!(image["Manifests"][0]["ImageData"]["Platform"]["os"], "linux");
    }
    let bridge = document(&daemon, "/networks/bridge");
    assert!(bridge["IPAM"].as_object().unwrap().contains_key("Options"), "{bridge}");
    let usage = document(&daemon, "/system/df");
    assert_eq!((&usage["LayersSize"], &usage["Images"][0]["SharedSize"]), (&size, &size), "{usage}");
}

#[test]
fn all_tags_go_to_a_registry_and_come_back() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    let _registry = daemon.serve_registry("127.0.0.1:5000");
    let name = "127.0.0.1:5000/many/app";
    let tags = ["1", "2"].map(|tag| format!("{name}:{tag}"));
    tags.iter().for_each(|tag| drop(daemon.ask(&["tag", "bb", tag])));
    let told = daemon.ask(&["push", "-a", name]);
    assert!(told.contains("1: digest: sha256:") && told.contains("2: digest: sha256:"), "{told}");
    tags.iter().for_each(|tag| drop(daemon.ask(&["rmi", tag])));
    let told = daemon.ask(&["pull", "-a", name]);
    assert!(told.contains("1: Pulling from many/app") && told.contains("2: Pulling from many/app"), "{told}");
    tags.iter().for_each(|tag| drop(daemon.ask(&["image", "inspect", tag])));
}
