/* A bare client of the libvirt library, for comparison with the tools.
 *
 *   client list                 the calls of tdx-td list, without use of the results
 *   client pools                all pools with their XML
 *   client volumes POOL         refresh; XML of all volumes and all domains
 *   client cleanup POOL         refresh; XML of all domains
 *   client define FILE...       define domains
 *   client run FILE             define and start a domain
 *   client remove NAME VOLUME   undefine a domain, delete its volume
 *   client off NAME...          ask guests to shut down; wait until all are shut off
 *   client watch N CMD ARG...   run CMD; print its ms in all, and at which ms of
 *                               it the last of N domains was off
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static virConnectPtr conn;

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void must(int good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "client: %s: %s\n", what, virGetLastErrorMessage());
	exit(1);
}

static void read_domain(virDomainPtr domain, unsigned int flags)
{
	char *xml = virDomainGetXMLDesc(domain, flags);

	must(xml != NULL, "read a domain");
	free(xml);
}

static void read_domains(int next_start_too)
{
	virDomainPtr *domains;
	int count = virConnectListAllDomains(conn, &domains, 0);

	must(count >= 0, "list domains");
	for (int i = 0; i < count; i++) {
		read_domain(domains[i], 0);
		if (next_start_too && virDomainGetID(domains[i]) != (unsigned int)-1)
			read_domain(domains[i], VIR_DOMAIN_XML_INACTIVE);
		virDomainFree(domains[i]);
	}
	free(domains);
}

static void list_domains(void)
{
	virDomainStatsRecordPtr *records;
	virDomainPtr *autostart;
	virNetworkPtr *networks;
	int count;

	count = virConnectListAllDomains(conn, &autostart, VIR_CONNECT_LIST_DOMAINS_AUTOSTART);
	must(count >= 0, "list domains");
	while (count-- > 0)
		virDomainFree(autostart[count]);
	free(autostart);

	count = virConnectListAllNetworks(conn, &networks, VIR_CONNECT_LIST_NETWORKS_ACTIVE);
	must(count >= 0, "list networks");
	while (count-- > 0) {
		virNetworkDHCPLeasePtr *leases;
		int lease = virNetworkGetDHCPLeases(networks[count], NULL, &leases, 0);

		must(lease >= 0, "list leases");
		while (lease-- > 0)
			virNetworkDHCPLeaseFree(leases[lease]);
		free(leases);
		virNetworkFree(networks[count]);
	}
	free(networks);

	count = virConnectGetAllDomainStats(conn, VIR_DOMAIN_STATS_STATE, &records, 0);
	must(count >= 0, "list domains with their states");
	for (int i = 0; i < count; i++)
		read_domain(records[i]->dom, 0);
	virDomainStatsRecordListFree(records);
}

static void list_pools(void)
{
	virStoragePoolPtr *pools;
	int count = virConnectListAllStoragePools(conn, &pools, 0);

	must(count >= 0, "list pools");
	while (count-- > 0) {
		char *xml = virStoragePoolGetXMLDesc(pools[count], 0);

		must(xml != NULL, "read a pool");
		free(xml);
		virStoragePoolFree(pools[count]);
	}
	free(pools);
}

static virStoragePoolPtr refreshed(const char *name)
{
	virStoragePoolPtr pool = virStoragePoolLookupByName(conn, name);

	must(pool && virStoragePoolRefresh(pool, 0) == 0, "refresh the pool");
	return pool;
}

static void read_volumes(virStoragePoolPtr pool)
{
	virStorageVolPtr *volumes;
	int count = virStoragePoolListAllVolumes(pool, &volumes, 0);

	must(count >= 0, "list volumes");
	for (int i = 0; i < count; i++) {
		char *xml = virStorageVolGetXMLDesc(volumes[i], 0);

		must(xml != NULL, "read a volume");
		free(xml);
		virStorageVolFree(volumes[i]);
	}
	free(volumes);
}

static virDomainPtr define(const char *path)
{
	static char xml[1 << 20];
	FILE *file = fopen(path, "r");
	virDomainPtr domain;

	must(file != NULL, "open the XML");
	xml[fread(xml, 1, sizeof(xml) - 1, file)] = '\0';
	fclose(file);
	domain = virDomainDefineXMLFlags(conn, xml, VIR_DOMAIN_DEFINE_VALIDATE);
	must(domain != NULL, path);
	return domain;
}

static void remove_domain(const char *name, const char *volume)
{
	virDomainPtr domain = virDomainLookupByName(conn, name);
	virStorageVolPtr disk = virStorageVolLookupByPath(conn, volume);

	must(domain && virDomainUndefineFlags(domain, VIR_DOMAIN_UNDEFINE_MANAGED_SAVE |
		VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA |
		VIR_DOMAIN_UNDEFINE_NVRAM) == 0, name);
	must(disk && virStorageVolDelete(disk, 0) == 0, volume);
}

/* --- events --- */

static struct {
	double last;
	int left;
} off;

static int stopped(virConnectPtr c, virDomainPtr domain, int event, int detail, void *opaque)
{
	(void)c, (void)domain, (void)detail, (void)opaque;
	if (event == VIR_DOMAIN_EVENT_STOPPED) {
		off.last = now_ms();
		off.left--;
	}
	return 0;
}

static void expect_off(int count)
{
	off.left = count;
	must(virConnectDomainEventRegisterAny(conn, NULL, VIR_DOMAIN_EVENT_ID_LIFECYCLE,
		VIR_DOMAIN_EVENT_CALLBACK(stopped), NULL, NULL) >= 0, "listen to events");
}

static void switch_off(int count, char **names)
{
	expect_off(count);
	for (int i = 0; i < count; i++) {
		virDomainPtr domain = virDomainLookupByName(conn, names[i]);

		must(domain && virDomainShutdown(domain) == 0, names[i]);
	}
	while (off.left > 0)
		must(virEventRunDefaultImpl() == 0, "wait for events");
}

static void tick(int timer, void *opaque)
{
	(void)timer, (void)opaque;
}

static void watch(int count, char **command)
{
	double began, ended = 0;
	int status;
	pid_t pid;

	expect_off(count);
	must(virEventAddTimeout(1, tick, NULL, NULL) >= 0, "set a timer");
	began = now_ms();
	pid = fork();
	if (pid == 0) {
		execvp(command[0], command);
		_exit(127);
	}
	must(pid > 0, "fork");
	/* Whichever comes last here: the command's end, or the news that guests are off. */
	while (ended == 0 || (off.left > 0 && now_ms() - ended < 5e3)) {
		must(virEventRunDefaultImpl() == 0, "wait for events");
		if (ended == 0 && waitpid(pid, &status, WNOHANG) == pid) {
			ended = now_ms();
			must(WIFEXITED(status) && WEXITSTATUS(status) == 0, command[0]);
		}
	}
	must(off.left == 0, "not all domains went off");
	printf("%.3f %.3f\n", ended - began, off.last - began);
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";

	if (!strcmp(verb, "off") || !strcmp(verb, "watch"))
		virEventRegisterDefaultImpl();
	conn = virConnectOpen(NULL);
	must(conn != NULL, "connect");
	if (!strcmp(verb, "list"))
		list_domains();
	else if (!strcmp(verb, "pools"))
		list_pools();
	else if (!strcmp(verb, "volumes") && argc == 3) {
		read_volumes(refreshed(argv[2]));
		read_domains(1);
	} else if (!strcmp(verb, "cleanup") && argc == 3) {
		refreshed(argv[2]);
		read_domains(0);
	} else if (!strcmp(verb, "define"))
		for (int i = 2; i < argc; i++)
			virDomainFree(define(argv[i]));
	else if (!strcmp(verb, "run") && argc == 3)
		must(virDomainCreate(define(argv[2])) == 0, "start");
	else if (!strcmp(verb, "remove") && argc == 4)
		remove_domain(argv[2], argv[3]);
	else if (!strcmp(verb, "off") && argc > 2)
		switch_off(argc - 2, argv + 2);
	else if (!strcmp(verb, "watch") && argc > 3)
		watch(atoi(argv[2]), argv + 3);
	else
		return 2;
	virConnectClose(conn);
	return 0;
}
