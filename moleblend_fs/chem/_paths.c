/* Shortest paths of a molecular graph, with the tie rule that the published weights saw.
 *
 * The rule: Floyd-Warshall, intermediate atom k in the outer loop; a path is replaced only by a strictly shorter one; the last
 * such k of (i, j) is remembered, and the path is i -> k -> j, unfolded recursively.
 *
 * That k is the smallest for which atoms 0 ... k suffice for a path of the final length: the least, over all shortest paths
 * from i to j, of the largest atom between its ends. Along the levels of a breadth-first search from i it is
 *
 *     via(i, j) = min over bonds p - j with d(i, p) = d(i, j) - 1 of max(via(i, p), p),  where p = i and via(i, i) count as -1,
 *
 * which takes n (n + m) steps for n atoms and m bonds instead of n^3. The unfolding is done without recursion: both halves of a
 * path are shorter than the whole, so that pairs are filled in the order of their distance.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MAX_HOPS 5
#define MAX_SPD 254
#define UNREACHABLE 255
/* No distance reaches NO_PATH. */
#define NO_PATH 16383
#define MAX_ATOMS 16383

struct scratch {
    size_t *count;
    uint32_t *order, *first;
    int16_t *distance, *via;
    uint16_t *neighbours, *queue;
};

/* Neighbours of atom i: neighbours[first[i]] ... neighbours[first[i + 1] - 1]; first has n + 1 entries. */
static void list_neighbours(int n, const uint16_t *bonds, Py_ssize_t num_bonds, uint32_t *first, uint16_t *neighbours)
{
    memset(first, 0, sizeof(uint32_t) * ((size_t)n + 1));
    for (Py_ssize_t e = 0; e < 2 * num_bonds; e++)
        first[bonds[e]]++;
    for (int i = 0; i < n; i++)
        first[i + 1] += first[i];
    /* Filled from the ends, which turns ends into beginnings. */
    for (Py_ssize_t e = 0; e < 2 * num_bonds; e++)
        neighbours[--first[bonds[e]]] = bonds[e ^ 1];
}

/* Distances and via of all pairs whose first atom is `source`; distance holds NO_PATH everywhere. queue has n entries. */
static void search(int source, const uint32_t *first, const uint16_t *neighbours, int16_t *distance, int16_t *via, uint16_t *queue)
{
    int begin = 0, end = 0;
    queue[end++] = (uint16_t)source;
    distance[source] = 0;
    via[source] = -1;
    while (begin < end) {
        const int p = queue[begin++];
        const int16_t next = (int16_t)(distance[p] + 1);
        const int16_t between = p == source ? -1 : via[p] > p ? via[p] : (int16_t)p;
        for (uint32_t e = first[p]; e < first[p + 1]; e++) {
            const int j = neighbours[e];
            if (distance[j] == NO_PATH) {
                distance[j] = next;
                via[j] = between;
                queue[end++] = (uint16_t)j;
            } else if (distance[j] == next && between < via[j]) {
                via[j] = between;
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

static void fill(int n, const uint16_t *bonds, const uint8_t *classes, Py_ssize_t num_bonds, const struct scratch *work, uint8_t *spd,
                 uint8_t *hops)
{
    const size_t pairs = (size_t)n * n;
    int16_t *distance = work->distance, *via = work->via;
    for (size_t p = 0; p < pairs; p++)
        distance[p] = NO_PATH;
    memset(hops, 0, pairs * MAX_HOPS);
    for (Py_ssize_t b = 0; b < num_bonds; b++) {
        const size_t there = (size_t)bonds[2 * b] * n + bonds[2 * b + 1];
        const size_t back = (size_t)bonds[2 * b + 1] * n + bonds[2 * b];
        hops[there * MAX_HOPS] = hops[back * MAX_HOPS] = classes[b];
    }
    list_neighbours(n, bonds, num_bonds, work->first, work->neighbours);
    for (int i = 0; i < n; i++)
        search(i, work->first, work->neighbours, distance + (size_t)i * n, via + (size_t)i * n, work->queue);
    for (size_t p = 0; p < pairs; p++)
        spd[p] = distance[p] >= NO_PATH ? UNREACHABLE : distance[p] > MAX_SPD ? MAX_SPD : (uint8_t)distance[p];

    const size_t reachable = sort_pairs(n, distance, work->order, work->count);
    for (size_t s = 0; s < reachable; s++) {
        const size_t p = work->order[s];
        if (distance[p] < 2)
            continue;
        const size_t i = p / n, j = p % n, k = (size_t)via[p];
        const int first = distance[i * n + k] < MAX_HOPS ? distance[i * n + k] : MAX_HOPS;
        memcpy(hops + p * MAX_HOPS, hops + (i * n + k) * MAX_HOPS, (size_t)first);
        memcpy(hops + p * MAX_HOPS + first, hops + (k * n + j) * MAX_HOPS, (size_t)(MAX_HOPS - first));
    }
}

/* Working memory in one allocation, widest types first so that every part is aligned. */
static int allocate(struct scratch *work, int n, Py_ssize_t num_bonds)
{
    const size_t pairs = (size_t)n * n, atoms = (size_t)n + 1;
    work->count = malloc(atoms * sizeof(size_t) + (pairs + atoms) * sizeof(uint32_t) +
                         (2 * pairs + 2 * (size_t)num_bonds + atoms) * sizeof(int16_t));
    if (!work->count)
        return -1;
    work->order = (uint32_t *)(work->count + atoms);
    work->first = work->order + pairs;
    work->distance = (int16_t *)(work->first + atoms);
    work->via = work->distance + pairs;
    work->neighbours = (uint16_t *)(work->via + pairs);
    work->queue = work->neighbours + 2 * num_bonds;
    return 0;
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
    struct scratch work = {0};
    if (check(n, &bonds, &classes) < 0)
        goto done;
    const size_t pairs = (size_t)n * n;
    spd = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)pairs);
    hops = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(pairs * MAX_HOPS));
    if (!spd || !hops)
        goto done;
    if (allocate(&work, (int)n, classes.len) < 0) {
        PyErr_NoMemory();
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    fill((int)n, bonds.buf, classes.buf, classes.len, &work, (uint8_t *)PyBytes_AS_STRING(spd), (uint8_t *)PyBytes_AS_STRING(hops));
    Py_END_ALLOW_THREADS
    result = PyTuple_Pack(2, spd, hops);
done:
    free(work.count);
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
