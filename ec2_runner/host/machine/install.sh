#!/bin/bash
# Turns this machine (Amazon Linux 2023) into an inference host. Safe to repeat; each new release runs it again.
#
# Needs AWS_REGION, CXR_BUCKET, CXR_ARTIFACTS, and CXR_HOST_ID or CXR_HOST_ROLE_ID, from the environment or
# /etc/cxr/host.env.
# That file then holds these and all other CXR_ variables: the worker's settings. CXR_PREFIX installs everything
# below another folder.
set -euo pipefail
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
prefix=${CXR_PREFIX:-}
python=${CXR_PYTHON:-python3.12}
metadata=http://169.254.169.254/latest
units=(cxr-worker.service cxr-log.service cxr-log.timer)

main() {
    mkdir -p "$prefix/etc/cxr" "$prefix/opt/cxr/host"
    settings
    packages
    account
    for script in install.sh update.sh log.sh; do
        place "$script" "$prefix/opt/cxr/host/$script" 755
    done
    place cxr-power-off.rules "$prefix/etc/polkit-1/rules.d/60-cxr-power-off.rules" 644
    ssh_daemon
    for unit in "${units[@]}"; do
        place "$unit" "$prefix/etc/systemd/system/$unit" 644
    done
    systemctl daemon-reload
    systemctl --quiet enable cxr-worker.service cxr-log.timer
    systemctl --no-block start cxr-worker.service cxr-log.timer
}

fail() {
    echo "install: $1" >&2
    exit 1
}

# Install a file of this folder. It is renamed into place, so that a running script (update.sh is one) does not
# change under its shell, and a kill leaves the old file whole.
place() {
    mkdir -p "$(dirname "$2")"
    install -m "$3" "$here/$1" "$2.new"
    mv -fT "$2.new" "$2"
}

settings() {
    local file="$prefix/etc/cxr/host.env" name value
    if [[ -e $file ]]; then
        while IFS='=' read -r name value; do
            [[ -n ${!name:-} ]] || export "$name=$value"
        done < <(grep -E '^(AWS_REGION|CXR_[A-Z_]+)=' "$file")
    fi
    [[ -n ${CXR_BUCKET:-} ]] || fail "CXR_BUCKET is not set: name the bucket of inbox and outbox"
    [[ -n ${CXR_ARTIFACTS:-} ]] || fail "CXR_ARTIFACTS is not set: name the bucket of the releases"
    [[ -n ${AWS_REGION:-} ]] || fail "AWS_REGION is not set: name the region of the bucket"
    export AWS_DEFAULT_REGION=$AWS_REGION
    unset CXR_STORE CXR_INDEX # settings of earlier releases, which the bucket replaces
    if [[ -z ${CXR_HOST_ID:-} ]]; then
        [[ -n ${CXR_HOST_ROLE_ID:-} ]] || fail "CXR_HOST_ROLE_ID is not set: name the unique id of the hosts' role"
        CXR_HOST_ID="$CXR_HOST_ROLE_ID:$(instance_id)" || fail "the instance metadata did not answer"
        export CXR_HOST_ID
    fi
    (umask 077 && : >"$file.new")
    for name in AWS_REGION AWS_DEFAULT_REGION $(compgen -e CXR_); do
        # systemd and the shell both read this file: allow nothing that either would take for syntax.
        [[ ${!name} =~ ^[A-Za-z0-9_.,:/@=+-]*$ ]] || fail "$name holds a character that is not allowed in a setting"
        echo "$name=${!name}" >>"$file.new"
    done
    mv -fT "$file.new" "$file"
}

instance_id() {
    local token
    token=$(curl --silent --fail --max-time 5 --retry 5 --request PUT \
        --header "X-aws-ec2-metadata-token-ttl-seconds: 60" "$metadata/api/token")
    curl --silent --fail --max-time 5 --retry 5 --header "X-aws-ec2-metadata-token: $token" \
        "$metadata/meta-data/instance-id"
}

packages() {
    local missing=()
    command -v "$python" >/dev/null || missing+=("$python")
    command -v pkaction >/dev/null || missing+=(polkit)
    [[ ${#missing[@]} == 0 ]] || timeout 300 dnf --quiet --assumeyes install "${missing[@]}" \
        || fail "the packages ${missing[*]} could not be installed"
}

# The password `*` matches no input, and unlike `!` does not make sshd treat the account as locked.
account() {
    id -u cxr >/dev/null 2>&1 || useradd --system --no-create-home --home-dir /var/lib/cxr \
        --shell /sbin/nologin --password '*' cxr
}

ssh_daemon() {
    local file="$prefix/etc/ssh/sshd_config.d/60-cxr.conf"
    cmp --silent "$here/sshd-cxr.conf" "$file" && return
    [[ ! -e $file ]] || cp -p "$file" "$file.old"
    place sshd-cxr.conf "$file" 600
    if ! sshd -t -f "$prefix/etc/ssh/sshd_config"; then
        if [[ -e $file.old ]]; then mv -fT "$file.old" "$file"; else rm -f "$file"; fi
        fail "sshd rejected its new configuration; the old one stays"
    fi
    rm -f "$file.old"
    systemctl reload sshd.service
}

main
