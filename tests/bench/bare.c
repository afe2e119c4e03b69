/* The cost of any program that links the libraries of a tool: it loads, prints a line
 * and ends. ./run links it with exactly the libraries in the tool's ELF header.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>

int main(void)
{
	return puts("bare") < 0;
}
