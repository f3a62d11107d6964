"""Runs one Elasticsearch node in this program: `python -m demo.search_node HOME JARS PORT TRANSPORT_PORT [FLAG …]`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from demo.jars import is_network
from demo.machine import java_library

_FLAGS = (
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "--enable-native-access=ALL-UNNAMED",
    "-Djava.awt.headless=true",
    "-Dlog4j2.disable.jmx=true",
    "-Dlog4j2.formatMsgNoLookups=true",
)


def settings(home: Path, port: int, transport_port: int) -> dict[str, str]:
    """One node on loopback that trusts its clients and ignores how full the disk is."""
    return {
        "path.home": str(home),
        "path.data": str(home / "data"),
        "path.logs": str(home / "logs"),
        "cluster.name": "demo",
        "node.name": "demo",
        "discovery.type": "single-node",
        "network.host": "127.0.0.1",
        "http.port": str(port),
        "transport.port": str(transport_port),
        "cluster.routing.allocation.disk.threshold_enabled": "false",
        "cluster.max_shards_per_node": "3000",
        "node.processors": "2",
    }


def start_java(home: Path, jars: Path, chosen: list[str]) -> None:
    """Load the Java virtual machine into this program."""
    import jpype

    flags = (*chosen, f"-Djava.io.tmpdir={home / 'tmp'}", f"-Des.path.home={home}", *_FLAGS)
    class_path = [str(jar) for jar in sorted(jars.glob("*.jar")) if not is_network(jar)]
    jpype.startJVM(str(java_library()), *flags, classpath=class_path)


def start_node(home: Path, port: int, transport_port: int) -> Any:
    """Start the node; it is up when this returns."""
    from jpype import JClass

    # by JClass: importing Java's packages would open the jars that Elasticsearch wants to open itself
    logs = JClass("org.elasticsearch.common.logging.LogConfigurator")
    plugins = JClass("org.elasticsearch.plugins.PluginsLoader")
    java_set, java_map = JClass("java.util.Set"), JClass("java.util.Map")
    chosen = node_settings(settings(home, port, transport_port))
    logs.configureESLogging()
    logs.configureWithoutConfig(chosen)
    environment = JClass("org.elasticsearch.env.Environment")(chosen, java_path(home / "config"))
    bundles = plugins.loadModulesBundles(environment.modulesDir(), False)
    loader = plugins.createPluginsLoader(bundles, java_set.of(), java_map.of(), False)
    return JClass("org.elasticsearch.node.Node")(environment, loader).start()


def java_path(path: Path) -> Any:
    """A path as Java has it."""
    from jpype import JClass

    return JClass("java.nio.file.Path").of(str(path))


def node_settings(chosen: dict[str, str]) -> Any:
    """Settings as Elasticsearch has them."""
    from jpype import JClass

    builder = JClass("org.elasticsearch.common.settings.Settings").builder()
    for name, value in chosen.items():
        builder.put(name, value)
    return builder.build()


def main() -> None:
    """Run until SIGTERM, then close the node in order."""
    home, jars = Path(sys.argv[1]), Path(sys.argv[2])
    (home / "tmp").mkdir(exist_ok=True)
    start_java(home, jars, sys.argv[5:])
    node = start_node(home, int(sys.argv[3]), int(sys.argv[4]))
    wanted = {signal.SIGTERM, signal.SIGINT}
    for number in wanted:
        signal.signal(number, lambda *_: None)  # Java's own would end the program at once
    signal.pause()
    node.close()
    os._exit(0)


if __name__ == "__main__":
    main()
