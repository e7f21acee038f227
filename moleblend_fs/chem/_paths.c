/* Shortest paths of a molecular graph, with the tie rule that the published weights saw.
 *
 * Floyd-Warshall, intermediate atom k in the outer loop; a path is replaced only by a strictly shorter one; the last
 * such k of (i, j) is remembered, and the path is i -> k -> j, unfolded recursively. The unfolding is done without recursion:
 * both halves of a path are shorter than the whole, so that pairs are filled in the order of their distance.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MAX_HOPS 5
#define MAX_SPD 254
#define UNREACHABLE 255
/* No distance reaches NO_PATH, and 2 * NO_PATH fits an int16_t. */
#define NO_PATH 16383
#define MAX_ATOMS 16383

static void floyd_warshall(int n, int16_t *distance, int16_t *via)
{
    for (int k = 0; k < n; k++) {
        const int16_t *from_k = distance + (size_t)k * n;
        for (int i = 0; i < n; i++) {
            int16_t *restrict from_i = distance + (size_t)i * n;
            int16_t *restrict via_i = via + (size_t)i * n;
            const int16_t to_k = from_i[k];
            if (i == k || to_k >= NO_PATH)
                continue;
            for (int j = 0; j < n; j++) {
                const int16_t candidate = (int16_t)(to_k + from_k[j]);
                const int shorter = candidate < from_i[j];
                via_i[j] = shorter ? (int16_t)k : via_i[j];
                from_i[j] = shorter ? candidate : from_i[j];
            }
        }
    }
}

/* Indices of all reachable pairs sorted by distance (counting sort); count has n + 1 entries. */
static size_t sort_pairs(int n, const int16_t *distance, uint32_t *order, size_t *count)
{
    const size_t pairs = (size_t)n * n;
    memset(count, 0, sizeof(size_t) * ((size_t)n + 1));
    for (size_t p = 0; p < pairs; p++)
        if (distance[p] < NO_PATH)
            count[distance[p] + 1]++;
    for (int d = 0; d < n; d++)
        count[d + 1] += count[d];
    const size_t total = count[n];
    for (size_t p = 0; p < pairs; p++)
        if (distance[p] < NO_PATH)
            order[count[distance[p]]++] = (uint32_t)p;
    return total;
}

static void fill(int n, const uint16_t *bonds, const uint8_t *classes, Py_ssize_t num_bonds, int16_t *distance, int16_t *via,
                 uint32_t *order, size_t *count, uint8_t *spd, uint8_t *hops)
{
    const size_t pairs = (size_t)n * n;
    for (size_t p = 0; p < pairs; p++) {
        distance[p] = NO_PATH;
        via[p] = -1;
    }
    memset(hops, 0, pairs * MAX_HOPS);
    for (int i = 0; i < n; i++)
        distance[(size_t)i * n + i] = 0;
    for (Py_ssize_t b = 0; b < num_bonds; b++) {
        const size_t there = (size_t)bonds[2 * b] * n + bonds[2 * b + 1];
        const size_t back = (size_t)bonds[2 * b + 1] * n + bonds[2 * b];
        distance[there] = distance[back] = 1;
        hops[there * MAX_HOPS] = hops[back * MAX_HOPS] = classes[b];
    }
    floyd_warshall(n, distance, via);
    for (size_t p = 0; p < pairs; p++)
        spd[p] = distance[p] >= NO_PATH ? UNREACHABLE : distance[p] > MAX_SPD ? MAX_SPD : (uint8_t)distance[p];

    const size_t reachable = sort_pairs(n, distance, order, count);
    for (size_t s = 0; s < reachable; s++) {
        const size_t p = order[s];
        if (distance[p] < 2)
            continue;
        const size_t i = p / n, j = p % n, k = (size_t)via[p];
        const int first = distance[i * n + k] < MAX_HOPS ? distance[i * n + k] : MAX_HOPS;
        memcpy(hops + p * MAX_HOPS, hops + (i * n + k) * MAX_HOPS, (size_t)first);
        memcpy(hops + p * MAX_HOPS + first, hops + (k * n + j) * MAX_HOPS, (size_t)(MAX_HOPS - first));
    }
}

static int check(long n, const Py_buffer *bonds, const Py_buffer *classes)
{
    if (n < 0 || n > MAX_ATOMS) {
        PyErr_Format(PyExc_ValueError, "number of atoms must lie in [0, %d], got %ld", MAX_ATOMS, n);
        return -1;
    }
    if (bonds->len != 4 * classes->len) {
        PyErr_Format(PyExc_ValueError, "bonds must hold two uint16 for each of %zd bond classes, got %zd bytes", classes->len, bonds->len);
        return -1;
    }
    const uint16_t *atoms = bonds->buf;
    for (Py_ssize_t b = 0; b < classes->len; b++) {
        if (atoms[2 * b] >= n || atoms[2 * b + 1] >= n || atoms[2 * b] == atoms[2 * b + 1]) {
            PyErr_Format(PyExc_ValueError, "bond %zd joins atoms %d and %d of %ld", b, (int)atoms[2 * b], (int)atoms[2 * b + 1], n);
            return -1;
        }
    }
    return 0;
}

static PyObject *shortest_paths(PyObject *self, PyObject *args)
{
    long n;
    Py_buffer bonds, classes;
    (void)self;
    if (!PyArg_ParseTuple(args, "ly*y*:shortest_paths", &n, &bonds, &classes))
        return NULL;
    PyObject *result = NULL, *spd = NULL, *hops = NULL;
    void *work = NULL;
    if (check(n, &bonds, &classes) < 0)
        goto done;
    const size_t pairs = (size_t)n * n;
    spd = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)pairs);
    hops = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(pairs * MAX_HOPS));
    if (!spd || !hops)
        goto done;
    /* One allocation, widest type first, so that every part is aligned. */
    const size_t counts = sizeof(size_t) * ((size_t)n + 1);
    work = malloc(counts + pairs * (sizeof(uint32_t) + 2 * sizeof(int16_t)));
    if (!work) {
        PyErr_NoMemory();
        goto done;
    }
    uint32_t *order = (uint32_t *)((char *)work + counts);
    int16_t *distance = (int16_t *)(order + pairs);
    Py_BEGIN_ALLOW_THREADS
    fill((int)n, bonds.buf, classes.buf, classes.len, distance, distance + pairs, order, work, (uint8_t *)PyBytes_AS_STRING(spd),
         (uint8_t *)PyBytes_AS_STRING(hops));
    Py_END_ALLOW_THREADS
    result = PyTuple_Pack(2, spd, hops);
done:
    free(work);
    Py_XDECREF(spd);
    Py_XDECREF(hops);
    PyBuffer_Release(&bonds);
    PyBuffer_Release(&classes);
    return result;
}

static PyMethodDef methods[] = {
    {"shortest_paths", shortest_paths, METH_VARARGS,
     "shortest_paths(num_atoms, bonds, classes) -> (spd, path_bonds)\n\n"
     "bonds: buffer of (m, 2) uint16, classes: buffer of (m,) uint8; returns bytes of (n, n) and (n, n, 5) uint8.\n"
     "Raises ValueError on atoms out of range, self-bonds and more than 16,383 atoms."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_paths", "Shortest paths of a molecular graph (see paths.py).", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__paths(void)
{
    return PyModule_Create(&module);
}
